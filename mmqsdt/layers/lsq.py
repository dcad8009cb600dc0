"""Layers with learned-step-size quantised weights (LSQ)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..registry import MODELS
from .integer_tensor import IntegerTensor
from .pointwise import PointwiseConv, wants_matrix_product

# A learned step never falls below this share of what it started from. There,
# nearly all weights would be clipped to the ends of the range.
MIN_STEP_SHARE = 0.05


class _QuantizeWeight(torch.autograd.Function):
    """LSQ's fake quantisation; recomputes instead of saving intermediates.

    ``value`` is what came out for the same weight and step before, if that
    is known.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, step_size: Tensor, min_step: Tensor,
                qmin: int, qmax: int, as_codes: bool,
                value: Tensor | None) -> Tensor:
        # The gradient passes this bound, so that a channel recovers.
        step = torch.maximum(step_size, min_step)
        step = step.view(-1, *[1] * (weight.dim() - 1))
        ctx.save_for_backward(weight, step)
        ctx.qmin, ctx.qmax = qmin, qmax
        if value is not None:
            return value.detach()
        code = round_to_codes(weight, step, qmin, qmax)
        if as_codes:
            return IntegerTensor(code.to(torch.int8), step, weight.dtype)
        return code.mul_(step)

    @staticmethod
    def backward(ctx, grad: Tensor):
        weight, step = ctx.saved_tensors
        ratio = weight / step
        # Passed on where qmin <= w / s <= qmax. In one pass, whose bounds
        # are open: bool masks are slow on CPU, see docs/performance.md.
        bounds = [next_beyond(q, ratio.dtype) for q in (ctx.qmin, ctx.qmax)]
        pass_inside = torch.ops.aten.hardtanh_backward
        grad_weight = pass_inside(grad, ratio, *bounds)
        # d(w_q)/d(step): code - w / s inside the range, the bound outside.
        # The codes once more: those of the forward pass lie further away.
        slope = ratio.clamp(ctx.qmin, ctx.qmax).round_()
        slope.sub_(pass_inside(ratio, ratio, *bounds)).mul_(grad)
        grad_step = slope.sum(dim=tuple(range(1, grad.dim())))
        grad_step.mul_((weight.numel() * ctx.qmax)**-0.5)
        return grad_weight, grad_step, None, None, None, None, None


def next_beyond(bound: int, dtype: torch.dtype) -> float:
    """The number next to an integer bound, on the side away from zero."""
    ulp = torch.finfo(dtype).eps * 2**(abs(bound).bit_length() - 1)
    return bound + ulp if bound > 0 else bound - ulp


def round_to_codes(weight: Tensor, step: Tensor, qmin: int,
                   qmax: int) -> Tensor:
    """round(clamp(w / s, qmin, qmax)), of the weight's dtype."""
    # Divide: a multiplied reciprocal would move exact ties.
    return (weight / step).clamp_(qmin, qmax).round_()


class _OptimizerSteps:
    """How many steps all optimizers of this process made so far.

    Weights that an optimizer writes through ``.data`` do not tell.
    """
    count = 0

    @classmethod
    def add(cls, *args) -> None:
        cls.count += 1


register_optimizer_step_post_hook(_OptimizerSteps.add)


class LSQWeight:
    r"""Mixin that quantises ``self.weight`` of a conv or linear layer.

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

    What was computed from a weight and a step size is kept and used again
    until one of them changes: during evaluation, and from one step of a
    gradient accumulation to the next. Loading, moving and copying a layer,
    a step of any optimizer and :meth:`train` and ``eval`` begin anew. Only
    who writes to ``weight.data`` between two passes in the same mode has to
    call :meth:`forget_quantized`.

    A layer that reads spikes stored as integers keeps its quantised weight
    as int8 codes for the backward pass. Same values; see
    :class:`IntegerTensor`.

    Source: LSQ (arXiv 1902.08153), eq. 1-3 and section 2.1; the scale over
    the whole tensor as in QSD-Transformer (arXiv 2501.13492).
    """

    _quantized: tuple[tuple, Tensor] | None = None

    def _init_quantizer(self, bits: int | None) -> None:
        if bits not in (2, 3, 4, 8, None) or isinstance(bits, float):
            raise ValueError('bits must be 2, 3, 4, 8, or None for float '
                             f'weights, got {bits!r}')
        self.bits = bits
        self._untouched = bits is not None
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
        if self._untouched and not self.weight.is_meta:
            self._untouched = False
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

    def quantized_weight(self, as_codes: bool = False) -> Tensor:
        """w_q = s * code, of the weight's shape; w itself without bits.

        Args:
            as_codes (bool): Whether to give an :class:`IntegerTensor`, where
                gradients are recorded. Same values. Defaults to False.
        """
        if self.bits is None:
            return self.weight
        if self._untouched:
            self.settle_step_size()
        as_codes = as_codes and torch.is_grad_enabled() and \
            not torch.compiler.is_compiling()
        value = self._known_value(as_codes)
        if value is not None and not torch.is_grad_enabled():
            return value
        if self.training and value is None:
            self.bound_step_size()
        out = _QuantizeWeight.apply(self.weight, self.step_size, self.min_step,
                                    self.qmin, self.qmax, as_codes, value)
        if value is None and self._can_be_known():
            self._quantized = self._origin(as_codes), out.detach()
        return out

    def _can_be_known(self) -> bool:
        """Whether tensors tell when they are written to.

        What stands in for a parameter, as under FSDP, is another each time.
        """
        return not torch.compiler.is_compiling() and all(
            isinstance(x, nn.Parameter) and not x.is_meta
            and not x.is_inference() for x in (self.weight, self.step_size))

    def _origin(self, as_codes: bool) -> tuple:
        """What the quantised weight was computed from."""
        tensors = self.weight, self.step_size
        return (_OptimizerSteps.count, as_codes, *tensors,
                *((x._version, x.data_ptr()) for x in tensors))

    def _known_value(self, as_codes: bool) -> Tensor | None:
        """The quantised weight if it is known and nothing has changed."""
        if self._quantized is None:
            return None
        origin, value = self._quantized
        # While it is trained, this alone tells.
        if origin[0] != _OptimizerSteps.count or not self._can_be_known():
            return None
        same = all(old is new if isinstance(old, Tensor) else old == new
                   for old, new in zip(origin, self._origin(as_codes)))
        return value if same else None

    def forget_quantized(self) -> None:
        """Have the next pass quantise the weight again."""
        self._quantized = None

    def train(self, mode: bool = True) -> 'LSQWeight':
        # An EMA hook swaps weights through .data, then changes the mode.
        self.forget_quantized()
        return super().train(mode)

    def _apply(self, *args, **kwargs) -> 'LSQWeight':
        self.forget_quantized()
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _quantized=None)

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
            entry = metadata.get(prefix[:-1], {})
            entry.update(min_step=float(self.min_step), bits=self.bits)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata,
                              strict, missing_keys, unexpected_keys,
                              error_msgs) -> None:
        key = f'{prefix}step_size'
        self.forget_quantized()
        super()._load_from_state_dict(state_dict, prefix, local_metadata,
                                      strict, missing_keys, unexpected_keys,
                                      error_msgs)
        if self.bits is None or f'{prefix}weight' not in state_dict:
            return
        # A step size fits codes of one width only.
        if key in state_dict and \
                local_metadata.get('bits', self.bits) == self.bits:
            self._untouched = False
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
        else:  # float weights, or those under codes of another width
            if key in missing_keys:
                missing_keys.remove(key)
            self._untouched = True
            self.reset_step_size()

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, bits={self.bits}'


@MODELS.register_module()
class LSQConv2d(LSQWeight, nn.Conv2d):
    """``nn.Conv2d`` with LSQ-quantised weights; see :class:`LSQWeight`.

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
        weight = self.quantized_weight(isinstance(x, IntegerTensor))
        if self.bits is not None and wants_matrix_product(self, x):
            return PointwiseConv.apply(x, weight)
        return self._conv_forward(x, weight, self.bias)


@MODELS.register_module()
class LSQLinear(LSQWeight, nn.Linear):
    """``nn.Linear`` with LSQ-quantised weights; see :class:`LSQWeight`.

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
        weight = self.quantized_weight(isinstance(x, IntegerTensor))
        return F.linear(x, weight, self.bias)


def settle_step_sizes(module: nn.Module) -> None:
    """Settle the step size of every LSQ layer of a model (before compile)."""
    for layer in module.modules():
        if isinstance(layer, LSQWeight):
            layer.settle_step_size()
