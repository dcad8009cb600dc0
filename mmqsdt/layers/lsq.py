"""Layers with learned-step-size quantized weights (LSQ)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS

# A learned step never falls below this share of what it started from. There,
# nearly all weights would be clipped to the ends of the range.
MIN_STEP_SHARE = 0.05


class _QuantizeWeight(torch.autograd.Function):
    """LSQ's fake quantization; recomputes instead of saving intermediates."""

    @staticmethod
    def forward(ctx, weight: Tensor, step_size: Tensor, min_step: Tensor,
                qmin: int, qmax: int) -> Tensor:
        # The gradient passes this bound, so that a channel recovers.
        step = torch.maximum(step_size, min_step)
        step = step.view(-1, *[1] * (weight.dim() - 1))
        ctx.save_for_backward(weight, step)
        ctx.qmin, ctx.qmax = qmin, qmax
        return round_to_codes(weight, step, qmin, qmax).mul_(step)

    @staticmethod
    def backward(ctx, grad: Tensor):
        weight, step = ctx.saved_tensors
        ratio = weight / step
        inside = (ratio >= ctx.qmin) & (ratio <= ctx.qmax)
        # d(w_q)/d(step): code - w / s inside the range, the bound outside.
        slope = ratio.clamp(ctx.qmin, ctx.qmax).round_() - ratio * inside
        grad_step = (grad * slope).sum(dim=tuple(range(1, grad.dim())))
        grad_step.mul_((weight.numel() * ctx.qmax)**-0.5)
        return grad * inside, grad_step, None, None, None


def round_to_codes(weight: Tensor, step: Tensor, qmin: int,
                   qmax: int) -> Tensor:
    """round(clamp(w / s, qmin, qmax)), of the weight's dtype."""
    # Divide: a multiplied reciprocal would move exact ties.
    return (weight / step).clamp_(qmin, qmax).round_()


class LSQWeight:
    r"""Mixin that quantizes ``self.weight`` of a conv or linear layer.

    .. math::

        code &= round(clamp(w / s, -2^{b-1}, 2^{b-1} - 1)) \\
        w_q &= s \cdot code

    with one step size s per output channel, rounding half to even. Gradient
    of w: straight through inside the range, 0 outside. Gradient of s:
    code - w/s inside the range, the bound outside, summed over the channel
    and scaled by :math:`1 / \sqrt{numel(w) (2^{b-1} - 1)}`.

    The step size starts at :math:`2 mean|w| / \sqrt{2^{b-1} - 1}`. As long
    as nobody has learned or loaded it, it follows the weights: it is derived
    again when float weights are loaded without one, and on first use if the
    weights were re-initialised in between. It stays above 1/20 of where it
    started, and above 0 in every checkpoint: an optimizer such as Adam moves
    it by its learning rate, whatever its size.

    Source: LSQ (arXiv 1902.08153), eq. 1-3 and section 2.1; the scale over
    the whole tensor as in QSD-Transformer (arXiv 2501.13492).
    """

    def _init_quantizer(self, bits: int | None) -> None:
        if bits not in (2, 3, 4, 8, None) or isinstance(bits, float):
            raise ValueError('bits must be 2, 3, 4, 8, or None for float '
                             f'weights, got {bits!r}')
        self.bits = bits
        self._step_is_default = bits is not None
        if bits is None:
            self.register_parameter('step_size', None)
            return
        self.qmin, self.qmax = -2**(bits - 1), 2**(bits - 1) - 1
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
        self.initial_step.copy_(2 * mean / self.qmax**0.5)
        self.step_size.copy_(self.initial_step.expand_as(self.step_size))
        self.min_step.copy_(MIN_STEP_SHARE * self.initial_step)

    @torch.compiler.disable
    def settle_step_size(self) -> None:
        """First use: follow weights that were re-initialised meanwhile."""
        if self._step_is_default and not self.weight.is_meta:
            self._step_is_default = False
            if torch.equal(self.step_size.detach(),
                           self.initial_step.expand_as(self.step_size)):
                self.reset_step_size()

    def positive_step_size(self) -> Tensor:
        """The step size in use, (out_channels,), never below its minimum.

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

    def quantized_weight(self) -> Tensor:
        """Return w_q = s * code, of the weight's shape; w without bits."""
        if self.bits is None:
            return self.weight
        if self._step_is_default:
            self.settle_step_size()
        if self.training:
            self.bound_step_size()
        return _QuantizeWeight.apply(self.weight, self.step_size,
                                     self.min_step, self.qmin, self.qmax)

    @torch.no_grad()
    def integer_weight(self) -> Tensor:
        """The codes, int8, of the weight's shape.

        Raises:
            ValueError: If the layer is float (bits=None).
        """
        if self.bits is None:
            raise ValueError('a float layer (bits=None) has no integer codes')
        self.settle_step_size()
        step = self.positive_step_size().view(
            -1, *[1] * (self.weight.dim() - 1))
        return round_to_codes(self.weight, step, self.qmin,
                              self.qmax).to(torch.int8)

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        self.bound_step_size()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # Beside the version of each module, so that a resumed training has
        # the bound it started with.
        if self.bits is not None and not self.min_step.is_meta:
            metadata = getattr(destination, '_metadata', {})
            metadata.get(prefix[:-1], {})['min_step'] = float(self.min_step)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata,
                              strict, missing_keys, unexpected_keys,
                              error_msgs) -> None:
        key = f'{prefix}step_size'
        super()._load_from_state_dict(state_dict, prefix, local_metadata,
                                      strict, missing_keys, unexpected_keys,
                                      error_msgs)
        if self.bits is None or f'{prefix}weight' not in state_dict:
            return
        if key in state_dict:
            self._step_is_default = False
            step = state_dict[key]
            if not (torch.isfinite(step).all() and (step > 0).all()):
                error_msgs.append(f'{key} must be finite and positive; the '
                                  'checkpoint is damaged or was not trained')
                return
            # Published checkpoints know no bound: what was learned elsewhere
            # is right as it is.
            smallest = torch.minimum(MIN_STEP_SHARE * step.mean(), step.min())
            bound = local_metadata.get('min_step', float(smallest))
            if not (isinstance(bound, float) and 0 < bound < float('inf')):
                error_msgs.append(f'the lower bound of {key} must be '
                                  f'positive, the checkpoint says {bound!r}')
                return
            with torch.no_grad():
                self.min_step.fill_(bound)
        else:  # float weights
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
        bits (int, optional): 2, 3, 4 or 8; None keeps float weights.
            Defaults to 4.
        args, kwargs: Those of ``nn.Conv2d``.

    Shape: (B, C_in, H, W) in, (B, C_out, H', W') out.

    Raises:
        ValueError: For other bits.
    """

    def __init__(self, *args, bits: int | None = 4, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._init_quantizer(bits)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.quantized_weight(), self.bias)


@MODELS.register_module()
class LSQLinear(LSQWeight, nn.Linear):
    """``nn.Linear`` with LSQ-quantized weights; see :class:`LSQWeight`.

    Args:
        bits (int, optional): 2, 3, 4 or 8; None keeps float weights.
            Defaults to 4.
        args, kwargs: Those of ``nn.Linear``.

    Shape: (..., in_features) in, (..., out_features) out.

    Raises:
        ValueError: For other bits.
    """

    def __init__(self, *args, bits: int | None = 4, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._init_quantizer(bits)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.quantized_weight(), self.bias)


def settle_step_sizes(module: nn.Module) -> None:
    """Settle the step size of every LSQ layer of a model (before compile)."""
    for layer in module.modules():
        if isinstance(layer, LSQWeight):
            layer.settle_step_size()
