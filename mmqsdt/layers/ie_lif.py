"""IE-LIF, the neuron that counts: its formula, gradients and arguments."""

import math
from functools import partial

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn

from ..registry import MODELS
from .common_start import follow
from .lif import SpikingNeuron

# Most levels for which two bins each fit into the 256 values of a byte.
MAX_BYTE_LEVELS = 126
# Mean of |H| if H is N(0, 1), as it is behind a batch norm.
NORMAL_MEAN = (2 / math.pi)**0.5


def round_to_count(u: Tensor, levels: int, half_up: bool) -> Tensor:
    """Return C = round(clamp(u, 0, D)) for u = H / theta; overwrites u."""
    u.clamp_(0, levels)
    return u.add_(0.5).floor_() if half_up else u.round_()


class _Spike(torch.autograd.Function):
    """S = a * round(clamp(H / theta, 0, D)), theta and a fixed.

    The gradient dS/dH is a / theta where 0 < H / theta < D, else 0. The
    backward pass needs that window alone, one byte an element.
    """

    @staticmethod
    def forward(ctx, potential: Tensor, levels: int, threshold: float,
                amplitude: float, half_up: bool, closed: bool) -> Tensor:
        u = potential / threshold
        if ctx.needs_input_grad[0]:
            window = (u >= 0) & (u <= levels) if closed else \
                (u > 0) & (u < levels)
            # As int8: a CPU is slow with masks of bool (docs/performance.md).
            ctx.save_for_backward(window.to(torch.int8))
            ctx.slope = amplitude / threshold
        return round_to_count(u, levels, half_up).mul_(amplitude)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (window, ) = ctx.saved_tensors
        return (window.to(grad.dtype).mul_(grad).mul_(ctx.slope), None, None,
                None, None, None)


class _LearnedSpike(torch.autograd.Function):
    r"""a * round(clamp(u, 0, D)), u = H / theta, with gradients of all three.

    .. math::

        \partial S / \partial H &= a / \theta \cdot [0 < u < D] \\
        \partial S / \partial \theta &= -a u / \theta \cdot [0 < u < D] \\
        \partial S / \partial a &= C

    For the backward pass u is saved in bins, one byte per element: bin 0 is
    u <= 0, the last bin is u > D, and between them each level has ``bins``
    bins. So u is known to half a bin, and the window exactly, except that
    u = D counts as inside. S is saved too, but the next layer saves the same
    tensor.
    """

    @staticmethod
    def forward(ctx, potential: Tensor, threshold: Tensor,
                amplitude: Tensor | None, levels: int,
                half_up: bool) -> Tensor:
        # In the dtype of the potential here, in that of the parameter behind:
        # a sum over a map does not fit into half precision.
        ctx.dtype = threshold.dtype
        threshold = threshold.to(potential.dtype)
        # None is the threshold itself: torch.compile takes no tensor twice.
        given = () if amplitude is None else (amplitude.to(potential.dtype), )
        amplitude = given[0] if given else threshold
        u = potential / threshold
        bins = 252 // levels
        ctx.last_bin = levels * bins + 1
        if any(ctx.needs_input_grad):
            # Rounded up: u = 0 is outside, as with a fixed threshold.
            binned = (u * bins).ceil_().clamp_(0, ctx.last_bin)
            # int8, because a cast to uint8 takes a CPU six times as long.
            binned = binned.sub_(128).to(torch.int8)
        spikes = round_to_count(u, levels, half_up).mul_(amplitude)
        if any(ctx.needs_input_grad):
            ctx.bins = bins
            ctx.save_for_backward(binned, spikes, threshold, *given)
        return spikes

    @staticmethod
    def backward(ctx, grad: Tensor):
        binned, spikes, threshold, *given = ctx.saved_tensors
        amplitude = given[0] if given else threshold
        binned = binned.to(grad.dtype).add_(128)
        # The gradient inside the window, 0 < bin < last, and 0 elsewhere.
        inside = torch.ops.aten.hardtanh_backward(grad, binned, 0.,
                                                  float(ctx.last_bin))
        u = binned.sub_(0.5).div_(ctx.bins)
        slope = amplitude / threshold
        dtype = ctx.dtype
        grad_threshold = -_dot(inside, u).to(dtype) * slope.to(dtype)
        grad_amplitude = _dot(grad, spikes).to(dtype) / amplitude.to(dtype)
        if not given:
            grad_threshold, grad_amplitude = \
                grad_threshold + grad_amplitude, None
        return inside.mul_(slope), grad_threshold, grad_amplitude, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum the products, (1, ), at least in float32."""
    if a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    return (a * b).sum().view(1)


@MODELS.register_module()
class IELIF(SpikingNeuron):
    r"""Information-enhanced leaky integrate-and-fire neuron.

    .. math::

        H[t] &= \beta V[t-1] + X[t] \\
        C[t] &= round(clamp(H[t] / \theta, 0, D)) \\
        S[t] &= a C[t] \\
        V[t] &= H[t] - \theta C[t]

    with :math:`V[0] = 0`. C is an integer spike count: D binary spikes at
    inference carry it exactly. With T = 1 the membrane plays no part. The
    gradient of C is :math:`1 / \theta` where :math:`0 < H / \theta < D`
    and 0 elsewhere.

    The published threshold of 0.25 fits published weights. Networks that are
    trained anew learn better with ``threshold='learned'``: one scalar a
    neuron, trained as :math:`\log \theta`, which keeps it positive and lets
    an optimizer change it in proportion. It starts at
    :math:`\theta = 2 mean|H| / \sqrt{D}` of the first batch that is trained
    on, LSQ's start for activations; until then it has the value of this
    formula for H from N(0, 1). Of several processes each starts from its own
    batch, and before the first step of the optimizer all take the value of
    their batches together. Setting :attr:`threshold` starts it as well, and
    checkpoints say whether it has started. Its gradient is scaled by
    :math:`1 / \sqrt{n D}` for n elements a sample, as LSQ does.

    Shape: ``(T*B, ...)`` in, the same out, each value one of 0, a, .., D a.

    Args:
        levels (int): D, the largest spike count. Defaults to 4.
        threshold (float | str): :math:`\theta`, the potential that a spike
            costs, or 'learned'. Defaults to 0.25, as published.
        amplitude (float, optional): a, what the next layer reads for one
            spike. None is 0.25 for a fixed threshold, and the threshold
            itself for a learned one: S then approximates
            :math:`clamp(H, 0, D \theta)`, and no norm is needed behind the
            next layer to keep the scale. Defaults to None.
        leak (float): :math:`\beta`, share of the potential kept from one
            time step to the next. Defaults to 0.25.
        time_steps (int): T. Defaults to 1.
        rounding (str): 'half_up', which weights of the authors' code need
            (exact ties occur behind attention), or 'half_even' (torch.round,
            ONNX QuantizeLinear). Defaults to 'half_up'.
        closed_window (bool): Whether the gradient also passes at both ends
            of the window, :math:`0 \le H / \theta \le D`. For fixed
            thresholds. Defaults to False.
        inplace (bool): Accepted, because mm modules pass it to activations;
            the input is never overwritten. Defaults to False.

    Raises:
        ValueError: For arguments out of range.

    Source: QSD-Transformer (arXiv 2501.13492), with the recurrence of I-LIF
    (arXiv 2407.20708); start and gradient scale of the learned threshold
    from LSQ (arXiv 1902.08153), section 2.
    """

    def __init__(self,
                 levels: int = 4,
                 threshold: float | str = 0.25,
                 amplitude: float | None = None,
                 leak: float = 0.25,
                 time_steps: int = 1,
                 rounding: str = 'half_up',
                 closed_window: bool = False,
                 inplace: bool = False) -> None:
        super().__init__(time_steps)
        if levels < 1 or int(levels) != levels:
            raise ValueError(f'levels must be an integer >= 1, got {levels}')
        learned = threshold == 'learned'
        if not learned and (isinstance(threshold, str) or threshold <= 0):
            raise ValueError("threshold must be positive or 'learned', got "
                             f'{threshold!r}')
        if amplitude is not None and amplitude <= 0:
            raise ValueError(f'amplitude must be positive, got {amplitude}')
        if not 0 <= leak <= 1:
            raise ValueError(f'leak must be in [0, 1], got {leak}')
        if rounding not in ('half_up', 'half_even'):
            raise ValueError("rounding must be 'half_up' or 'half_even', got "
                             f'{rounding!r}')
        if learned and closed_window:
            raise ValueError('closed_window needs a fixed threshold')
        if learned and levels > MAX_BYTE_LEVELS:
            raise ValueError('a learned threshold takes at most '
                             f'{MAX_BYTE_LEVELS} levels, got {levels}')
        self.levels = int(levels)
        self.leak = leak
        self.rounding = rounding
        self.closed_window = closed_window
        self.learned = learned
        self._amplitude = 0.25 if amplitude is None and not learned \
            else amplitude
        if learned:
            self.log_threshold = nn.Parameter(torch.empty(1))
            self.reset_threshold()
            follow(self)
        else:
            self._threshold = threshold
            self.register_parameter('log_threshold', None)

    @torch.no_grad()
    def reset_threshold(self) -> None:
        """Let a learned threshold start again from the next batch."""
        self.threshold = self.default_threshold
        self._started, self.seen = False, (0., 0.)

    @property
    def default_threshold(self) -> float:
        """Value of a learned threshold until it starts."""
        return 2 * NORMAL_MEAN / self.levels**0.5

    @property
    def threshold(self) -> float:
        """The potential that a spike costs."""
        if not self.learned:
            return self._threshold
        if self.log_threshold.is_meta:
            return self.default_threshold
        return float(self.log_threshold.detach().exp())

    @threshold.setter
    @torch.no_grad()
    def threshold(self, value: float) -> None:
        if not self.learned:
            self._threshold = value
            return
        self.log_threshold.fill_(math.log(value))
        # From here, not from the next batch, and in all processes alike.
        self._started, self.seen = True, None

    @property
    def amplitude(self) -> float:
        """What the next layer reads for one spike."""
        return self.threshold if self._amplitude is None else self._amplitude

    @amplitude.setter
    def amplitude(self, value: float) -> None:
        self._amplitude = value

    @partial(
        torch.compiler.disable,
        reason='a learned threshold starts from its first batch: run one '
        'batch in training mode before torch.compile')
    @torch.no_grad()
    def start_threshold(self, potential: Tensor) -> None:
        """Set a learned threshold to 2 mean|H| / sqrt(D).

        Args:
            potential (Tensor): H, of any shape. Nothing happens if it is
                empty, all zero or not finite.
        """
        total = float(potential.abs().sum(dtype=torch.float32))
        if 0 < total < math.inf:
            self.start_from(total, potential.numel())
            if get_world_size() > 1:
                self.seen = total, float(potential.numel())

    def start_from(self, total: float, number: float) -> None:
        """Set a learned threshold by a sum of |H| over so many elements."""
        self.threshold = 2 * total / number / self.levels**0.5

    def _scaled_threshold(self, potential: Tensor) -> Tensor:
        """Return theta, (1, ), with its gradient scaled by 1 / sqrt(n D)."""
        n = max(potential.numel() // max(len(potential), 1), 1)
        scale = (n * self.levels)**-0.5
        log = self.log_threshold
        return (log * scale + (log - log * scale).detach()).exp()

    def _fire(self, potential: Tensor, amplitude: float | Tensor) -> Tensor:
        half_up = self.rounding == 'half_up'
        if not self.learned:
            return _Spike.apply(potential, self.levels, self._threshold,
                                amplitude, half_up, self.closed_window)
        threshold = self._scaled_threshold(potential)
        if amplitude is not None and not isinstance(amplitude, Tensor):
            amplitude = threshold.new_full((1, ), amplitude)
        return _LearnedSpike.apply(potential, threshold, amplitude,
                                   self.levels, half_up)

    def count(self, potential: Tensor) -> Tensor:
        """Return the spike counts of one time step, round(clamp(H/theta))."""
        return self._fire(potential, 1.)

    def forward(self, x: Tensor) -> Tensor:
        if self.learned and self.training and not self._started:
            self.start_threshold(x)
        if self.time_steps == 1:
            return self._fire(x, self._amplitude)
        threshold = self._scaled_threshold(x) if self.learned \
            else self._threshold
        amplitude = threshold if self._amplitude is None else self._amplitude
        counts = []
        membrane = 0.
        for x_t in self.split_time(x):  # (B, ...)
            potential = self.leak * membrane + x_t
            counts.append(self.count(potential))
            membrane = potential - threshold * counts[-1]
        return torch.cat(counts) * amplitude  # (T*B, ...)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__({'seen': None, **state})
        if self.learned:
            follow(self)  # copies are trained, too

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.learned:  # beside the version of each module
            metadata = getattr(destination, '_metadata', {})
            metadata.get(prefix[:-1], {}).update(started=self._started)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata,
                              strict, missing_keys, unexpected_keys,
                              error_msgs) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata,
                                      strict, missing_keys, unexpected_keys,
                                      error_msgs)
        key = f'{prefix}log_threshold'
        value = state_dict.get(key)
        if value is None:
            return
        if not self.learned:
            error_msgs.append(
                f'{key} is a learned threshold, but this neuron has a fixed '
                f"one, {self._threshold}; set threshold='learned' in the "
                'config of the neuron')
        elif not torch.isfinite(value).all():
            error_msgs.append(f'{key} must be finite; the checkpoint is '
                              'damaged or its training had diverged')
        else:
            # Who saved it without a word had started it.
            self._started = bool(local_metadata.get('started', True))
            self.seen = None if self._started else (0., 0.)

    def extra_repr(self) -> str:
        learned = ' (learned)' if self.learned else ''
        return (f'levels={self.levels}, threshold={self.threshold:.6g}'
                f'{learned}, amplitude={self.amplitude:.6g}, '
                f'time_steps={self.time_steps}, rounding={self.rounding}')


DEFAULT_NEURON = 'mmqsdt.IELIF'


def build_neuron(cfg: dict, time_steps: int = 1) -> nn.Module:
    """Build a neuron, or an activation such as ``dict(type='ReLU')``.

    Args:
        cfg (dict): Config of any registered activation or neuron; without a
            type, of IE-LIF: ``dict(levels=8)``.
        time_steps (int): T, given to neurons; activations keep no time.
    """
    cfg = dict(dict(type=DEFAULT_NEURON), **cfg)
    cls = MODELS.get(cfg['type']) if isinstance(cfg['type'], str) \
        else cfg['type']
    if cls is None:
        raise KeyError(f'neuron type {cfg["type"]!r} is not registered; use '
                       "'mmqsdt.IELIF', 'mmqsdt.LIF' or an activation such "
                       "as 'ReLU'")
    if cls is not IELIF and cfg.get('threshold') == 'learned':
        # Left over where only the type of a config's neuron was replaced.
        cfg = {k: v for k, v in cfg.items() if k != 'threshold'}
    if issubclass(cls, SpikingNeuron):
        cfg = {**cfg, 'time_steps': time_steps}
    return MODELS.build(cfg)
