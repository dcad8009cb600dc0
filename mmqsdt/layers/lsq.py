"""Layers with learned-step-size quantized weights (LSQ)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS

# A learned step never falls below this share of what it started from. There,
# nearly all weights would be clipped to the ends of the range.
MIN_STEP_SHARE = 0.05

INTEGER_FORM = 'mmqsdt.deploy.to_integer folds batch norms into a scale ' \
    'behind the integers instead'


# What ``bits`` can be; None is float weights. 'ternary': codes -1, 0 and 1.
Bits = int | str
BITS = (1, 'ternary', 2, 3, 4, 8)


class _QuantizeWeight(torch.autograd.Function):
    """LSQ's fake quantization; recomputes instead of saving intermediates."""

    @staticmethod
    def forward(ctx, weight: Tensor, step_size: Tensor, min_step: Tensor,
                qmin: int, qmax: int, signs: bool) -> Tensor:
        # The gradient passes this bound, so that a channel recovers.
        step = torch.maximum(step_size, min_step)
        step = step.view(-1, *[1] * (weight.dim() - 1))
        ctx.save_for_backward(weight, step)
        ctx.qmin, ctx.qmax, ctx.signs = qmin, qmax, signs
        return round_to_codes(weight, step, qmin, qmax, signs).mul_(step)

    @staticmethod
    def backward(ctx, grad: Tensor):
        weight, step = ctx.saved_tensors
        ratio = weight / step
        inside = (ratio >= ctx.qmin) & (ratio <= ctx.qmax)
        # d(w_q)/d(step): code - w / s inside the range, the bound outside.
        slope = codes_of(ratio, ctx.qmin, ctx.qmax, ctx.signs) \
            - ratio * inside
        grad_step = (grad * slope).sum(dim=tuple(range(1, grad.dim())))
        grad_step.mul_((weight.numel() * ctx.qmax)**-0.5)
        return grad * inside, grad_step, None, None, None, None


def codes_of(ratio: Tensor, qmin: int, qmax: int, signs: bool) -> Tensor:
    """round(clamp(ratio, qmin, qmax)), or the sign, 1 for zero."""
    if signs:
        return torch.where(ratio >= 0, ratio.new_ones(()), -1.)
    return ratio.clamp(qmin, qmax).round_()


def round_to_codes(weight: Tensor, step: Tensor, qmin: int, qmax: int,
                   signs: bool = False) -> Tensor:
    """Codes of weights, of the weight's dtype; see :func:`codes_of`."""
    # Divide: a multiplied reciprocal would move exact ties.
    ratio = weight / step
    return codes_of(ratio, qmin, qmax, signs) if signs else \
        ratio.clamp_(qmin, qmax).round_()


def code_values(bits: Bits) -> range:
    """Return all possible codes, from the lowest to the highest."""
    if bits == 1:
        return range(-1, 2, 2)
    if bits == 'ternary':
        return range(-1, 2)
    return range(-2**(bits - 1), 2**(bits - 1))


def code_width(bits: Bits | None) -> float:
    """Bits that a weight takes in memory.

    32 without codes; 1.6 if it is ternary, five of which share a byte.
    """
    return 32 if bits is None else 1.6 if bits == 'ternary' else bits


def width_name(bits: Bits | None) -> str:
    """E.g. '4 bits', 'ternary codes', 'float weights'."""
    if bits is None:
        return 'float weights'
    return 'ternary codes' if bits == 'ternary' else \
        f'{bits} bit{"s" * (bits != 1)}'


def smallest_step(step: Tensor) -> Tensor:
    """Return the default bound of step sizes."""
    return torch.minimum(MIN_STEP_SHARE * step.mean(), step.min())


def channel_factor(scaled: Tensor, weight: Tensor) -> Tensor | None:
    """Find the f of each output channel with scaled = f * weight.

    Args:
        scaled (Tensor): What may be a multiple of the weight.
        weight (Tensor): (out_channels, ...).

    Returns:
        Tensor | None: float64, of a shape that broadcasts over the weight;
        0 for channels that are all zero, and None if there is no such f.
        Gradients pass to whatever the factor was made of.
    """
    if scaled.shape != weight.shape:
        return None
    dims = tuple(range(1, weight.dim()))
    a, b = scaled.double(), weight.double()
    square = b.square().sum(dims, keepdim=True)
    factor = (a * b).sum(dims, keepdim=True) / torch.where(
        square > 0, square, 1.)
    # Rounded once by the factor, and once by who made it.
    info = torch.finfo(scaled.dtype)
    close = (a - factor * b).abs() <= 4 * info.eps * (factor * b).abs() + \
        info.tiny
    return factor if close.all() else None


class LSQWeight:
    r"""Mixin that quantizes ``self.weight`` of a conv or linear layer.

    .. math::

        code &= round(clamp(w / s, -2^{b-1}, 2^{b-1} - 1)) \\
        w_q &= s \cdot code

    with one step size s per output channel, rounding half to even. Gradient
    of w: straight through inside the range, 0 outside. Gradient of s:
    code - w/s inside the range, the bound outside, summed over the channel
    and scaled by :math:`1 / \sqrt{numel(w) (2^{b-1} - 1)}`.

    Two narrower widths have symmetric codes, and all of the above with the
    range -1..1. ``bits='ternary'``: -1, 0 and 1, rounded. ``bits=1``: -1 and
    1, by the sign, 1 for zero; sign(w) takes the place of the rounded value
    in both gradients.

    The step size starts at :math:`2 mean|w| / \sqrt{2^{b-1} - 1}`, of one
    bit at :math:`mean|w|`, where the squared error is least. As long as
    nobody has learned or loaded it, it follows the weights: it is derived
    again when float weights are loaded without one, and on first use if the
    weights were re-initialised in between. It stays above 1/20 of where it
    started, and above 0 in every checkpoint: an optimizer such as Adam moves
    it by its learning rate, whatever its size.

    Weights and step size belong together. Tools that fold a norm into a layer
    put a multiple of its weights in their place, channel by channel; the step
    size takes part in that, and the codes stay. So
    ``mmcv.cnn.utils.fuse_conv_bn`` and ``torch.nn.utils.fusion`` give equal
    outputs. A negative factor turns the codes around; where the lowest one,
    which has no counterpart, would have to be, it is refused.

    Source: LSQ (arXiv 1902.08153), eq. 1-3 and section 2.1; the scale over
    the whole tensor as in QSD-Transformer (arXiv 2501.13492). LSQ with a
    sign for one bit: BiT (arXiv 2205.13016); mean|w|: XNOR-Net (arXiv
    1603.05279).
    """

    _loading = False

    def _init_quantizer(self, bits: Bits | None) -> None:
        if bits not in (*BITS, None) or isinstance(bits, (bool, float)):
            raise ValueError("bits must be 2, 3, 4, 8, 'ternary', 1, or None "
                             f'for float weights, got {bits!r}')
        self.bits = bits
        self._step_is_default = bits is not None
        if bits is None:
            self.register_parameter('step_size', None)
            return
        values = code_values(bits)
        self.qmin, self.qmax = values[0], values[-1]
        self.signs = bits == 1
        self.step_size = nn.Parameter(self.weight.new_empty(len(self.weight)))
        self.register_buffer(
            'initial_step', self.weight.new_empty(()), persistent=False)
        self.register_buffer(
            'min_step', self.weight.new_empty(()), persistent=False)
        self.reset_step_size()

    @torch.no_grad()
    def reset_step_size(self) -> None:
        """Derive the step size from the current weights."""
        mean = self.weight.abs().mean()
        # Weights that start at zero get the scale a default init would have.
        default = 0.5 / self.weight[0].numel()**0.5
        mean = torch.where(mean > 0, mean, mean.new_tensor(default))
        self.initial_step.copy_(mean if self.signs else
                                2 * mean / self.qmax**0.5)
        self.step_size.copy_(self.initial_step.expand_as(self.step_size))
        self.min_step.copy_(MIN_STEP_SHARE * self.initial_step)

    @torch.compiler.assume_constant_result  # runs while it is traced
    def settle_step_size(self) -> None:
        """First use: follow weights that were re-initialised meanwhile."""
        if self._step_is_default and not self.weight.is_meta:
            self._follow_weight()
            self._step_is_default = False

    def _follow_weight(self) -> None:
        """Derive a step size again that nobody has set."""
        if self._step_is_default and not self.weight.is_meta and torch.equal(
                self.step_size.detach(),
                self.initial_step.expand_as(self.step_size)):
            self.reset_step_size()

    @torch.no_grad()
    def set_step_size(self, step: Tensor) -> None:
        """Take a step size found elsewhere as settled.

        Args:
            step (Tensor): (out_channels,), finite and positive. Its bound
                is 1/20 of the mean, or the smallest, if that is less.
        """
        self._step_is_default = False
        self.step_size.copy_(step)
        self.min_step.copy_(smallest_step(step))

    def positive_step_size(self) -> Tensor:
        """Return the step size in use, (out_channels,), at least its minimum.

        Without a gradient.
        """
        return torch.maximum(self.step_size.detach(), self.min_step)

    @torch.no_grad()
    def bound_step_size(self) -> None:
        """Bring a step that an optimizer made too small back to its bound."""
        # Under FSDP it is a view of a flat parameter, which must not be
        # changed in place; the bound then holds by positive_step_size alone.
        if self.bits is not None and not self.step_size.is_meta and \
                self.step_size.is_leaf:
            self.step_size.clamp_(min=self.min_step)

    def __setattr__(self, name: str, value: object) -> None:
        if name == 'weight' and isinstance(value, nn.Parameter):
            self._follow_factor(value)
        super().__setattr__(name, value)

    @torch.no_grad()
    def _follow_factor(self, scaled: nn.Parameter) -> None:
        """Before a multiple of the weight takes its place: scale the step.

        Raises:
            ValueError: If a code would have to be turned around that has no
                counterpart.
        """
        weight = self._parameters.get('weight')
        if getattr(self, 'bits', None) is None or self._loading or \
                weight is None or weight is scaled or weight.is_meta or \
                scaled.is_meta or weight.device != scaled.device or \
                weight.dtype != scaled.dtype:
            return
        factor = channel_factor(scaled, weight)
        if factor is None or (factor == 1).all():
            return
        code = self.integer_weight() * factor.sign().to(torch.int16)
        if code.max() > self.qmax:
            raise ValueError(
                f'a factor below 0, of a batch norm, turns code {self.qmin} '
                f'of a {self.bits}-bit {type(self).__name__} into '
                f'{-self.qmin}, which {self.bits} bits do not hold: it cannot '
                f'be folded into the weights. {INTEGER_FORM}')
        if self.signs and (code == 0).any():
            raise ValueError(
                f'a factor of 0, of a batch norm, makes zeros of the weights '
                f'of a {type(self).__name__}, which 1 bit does not hold: it '
                f'cannot be folded into the weights. {INTEGER_FORM}')
        shape = [-1] + [1] * (weight.dim() - 1)
        step = self.positive_step_size().double() * torch.where(
            factor == 0, 1., factor).abs().flatten()
        self.step_size.copy_(
            step.clamp(min=torch.finfo(weight.dtype).tiny))
        self.min_step.clamp_(max=self.step_size.min())
        # Rounding may have moved a weight over the edge between two codes.
        code = code.to(weight.dtype)
        step = self.step_size.view(shape)
        moved = round_to_codes(scaled, step, self.qmin, self.qmax,
                               self.signs) != code
        scaled.copy_(torch.where(moved, code * step, scaled))

    def quantized_multiple(self, weight: Tensor) -> Tensor:
        """Read a multiple of the weight as one of the quantized weight.

        Args:
            weight (Tensor): The weight, or the quantized weight, times a
                factor for each output channel.

        Raises:
            ValueError: If it is no such multiple.
        """
        quantized = self.quantized_weight()
        factor = channel_factor(weight, self.weight)
        # Of one bit, weights of zero are quantized to others.
        if factor is not None and not (self.signs and (factor == 0).any()):
            return quantized * factor.to(quantized.dtype)
        if channel_factor(weight, quantized) is not None:
            return weight
        raise ValueError(
            f'a {type(self).__name__} multiplies with its quantized weights, '
            'or with a multiple of them for each channel; it was given '
            f'others. Call the layer itself. {INTEGER_FORM}')

    def quantized_weight(self) -> Tensor:
        """Return w_q = s * code, of the weight's shape; w without bits."""
        if self.bits is None:
            return self.weight
        self.settle_step_size()
        if self.training:
            self.bound_step_size()
        return _QuantizeWeight.apply(self.weight, self.step_size,
                                     self.min_step, self.qmin, self.qmax,
                                     self.signs)

    @torch.no_grad()
    def integer_weight(self) -> Tensor:
        """Return the codes, int8, of the weight's shape.

        Raises:
            ValueError: If the layer is float (bits=None).
        """
        if self.bits is None:
            raise ValueError('a float layer (bits=None) has no integer codes')
        self.settle_step_size()
        step = self.positive_step_size().view(
            -1, *[1] * (self.weight.dim() - 1))
        return round_to_codes(self.weight, step, self.qmin, self.qmax,
                              self.signs).to(torch.int8)

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        # Who loads it takes the step size for a learned one.
        self._follow_weight()
        self.bound_step_size()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # Beside the version of each module, so that a resumed training has
        # the bound it started with.
        if self.bits is not None and not self.min_step.is_meta:
            metadata = getattr(destination, '_metadata', {})
            entry = metadata.get(prefix[:-1], {})
            entry.update(min_step=float(self.min_step), bits=self.bits)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata,
                              strict, missing_keys, unexpected_keys,
                              error_msgs) -> None:
        key = f'{prefix}step_size'
        self._loading = True  # weights bring their own step size
        super()._load_from_state_dict(state_dict, prefix, local_metadata,
                                      strict, missing_keys, unexpected_keys,
                                      error_msgs)
        self._loading = False
        if self.bits is None or f'{prefix}weight' not in state_dict:
            return
        # A step size fits codes of one width only.
        if key in state_dict and \
                local_metadata.get('bits', self.bits) == self.bits:
            self._step_is_default = False
            step = state_dict[key]
            if not (torch.isfinite(step).all() and (step > 0).all()):
                error_msgs.append(f'{key} must be finite and positive; the '
                                  'checkpoint is damaged or was not trained')
                return
            # Published checkpoints know no bound: what was learned elsewhere
            # is right as it is.
            bound = local_metadata.get('min_step', float(smallest_step(step)))
            if not (isinstance(bound, float) and 0 < bound < float('inf')):
                error_msgs.append(f'the lower bound of {key} must be '
                                  f'positive, the checkpoint says {bound!r}')
                return
            with torch.no_grad():
                self.min_step.fill_(bound)
        else:  # float weights, or those under codes of another width
            if key in missing_keys:
                missing_keys.remove(key)
            self._step_is_default = True
            self.reset_step_size()

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, bits={self.bits}'


@MODELS.register_module()
class LSQConv2d(LSQWeight, nn.Conv2d):
    """``nn.Conv2d`` with LSQ-quantized weights; see :class:`LSQWeight`.

    A ``conv_cfg`` for any mm module:
    ``dict(type='mmqsdt.LSQConv2d', bits=4)``.

    Args:
        bits (int | str, optional): 2, 3, 4 or 8; 'ternary' or 1 for codes
            of -1, 0, 1 or -1, 1; None keeps float weights. Defaults to 4.
        args, kwargs: Those of ``nn.Conv2d``.

    Shape: (B, C_in, H, W) in, (B, C_out, H', W') out.

    Raises:
        ValueError: For other bits.
    """

    def __init__(self, *args, bits: Bits | None = 4, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._init_quantizer(bits)

    def forward(self, x: Tensor) -> Tensor:
        return super()._conv_forward(x, self.quantized_weight(), self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor,
                      bias: Tensor | None) -> Tensor:
        """For tools that go past forward, such as efficient_conv_bn_eval.

        Raises:
            ValueError: If they bring other weights than a multiple, by
                channel, of those that the layer has.
        """
        if self.bits is not None:
            weight = self.quantized_multiple(weight)
        return super()._conv_forward(input, weight, bias)


@MODELS.register_module()
class LSQLinear(LSQWeight, nn.Linear):
    """``nn.Linear`` with LSQ-quantized weights; see :class:`LSQWeight`.

    Args:
        bits (int | str, optional): 2, 3, 4 or 8; 'ternary' or 1 for codes
            of -1, 0, 1 or -1, 1; None keeps float weights. Defaults to 4.
        args, kwargs: Those of ``nn.Linear``.

    Shape: (..., in_features) in, (..., out_features) out.

    Raises:
        ValueError: For other bits.
    """

    def __init__(self, *args, bits: Bits | None = 4, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._init_quantizer(bits)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.quantized_weight(), self.bias)


def settle_step_sizes(module: nn.Module) -> None:
    """Settle the step size of every LSQ layer of a model (before compile)."""
    for layer in module.modules():
        if isinstance(layer, LSQWeight):
            layer.settle_step_size()
