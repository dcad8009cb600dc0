"""Neurons: the information-enhanced LIF and the binary LIF baseline."""

from math import frexp

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from ..registry import MODELS
from .integer_tensor import IntegerTensor

# Counts up to here fit one byte in every way that kernels read it.
MAX_BYTE_LEVELS = 127


def rescale(potential: Tensor, threshold: float) -> tuple[Tensor, float]:
    """A tensor u and a factor f with f u = H / theta, to the last bit.

    1 / theta is exact for powers of two, and so is scaling by it: then u is
    the potential itself.
    """
    if frexp(threshold)[0] == 0.5 and potential.is_floating_point():
        return potential, 1 / threshold
    return potential / threshold, 1.


def shift_and_clamp(u: Tensor, scale: float, levels: int, half_up: bool,
                    out: Tensor | None = None) -> Tensor:
    """A value in [C, C + 1) for each count C = round(clamp(scale u, 0, D))."""
    shift = 0.5 if half_up else 0.
    count = torch.add(u.new_full((), shift), u, alpha=scale, out=out)
    count.clamp_(0, levels + shift)
    return count if half_up else count.round_()


class _Spike(torch.autograd.Function):
    """a * round(clamp(H / theta, 0, D)) with a rectangular surrogate.

    Only the window (one byte an element) is kept for the backward pass. It
    is made and applied by arithmetic: on CPU, comparisons and torch.where
    take ten times as long, see docs/performance.md.

    The spikes are floats, or with ``storage`` 'bytes' or 'kernel' the same
    values as an :class:`IntegerTensor`.
    """

    @staticmethod
    def forward(ctx, potential: Tensor, levels: int, threshold: float,
                amplitude: float, half_up: bool, closed_window: bool,
                storage: str) -> Tensor:
        u, scale = rescale(potential, threshold)
        count = torch.empty_like(u)
        if ctx.needs_input_grad[0]:
            if closed_window:
                window = (u >= 0) & (u <= levels / scale)
            else:  # 1 where 0 < H / theta < D; count is but a place for it
                window = torch.ops.aten.hardtanh_backward.grad_input(
                    u.new_ones(()), u, 0., levels / scale, grad_input=count)
            ctx.save_for_backward(window.to(torch.int8))
            ctx.slope = amplitude / threshold
        shift_and_clamp(u, scale, levels, half_up, out=count)
        if storage != 'floats':  # to int8 drops the fraction
            return IntegerTensor(
                count.to(torch.int8).view(torch.uint8), amplitude,
                count.dtype, storage == 'kernel')
        if half_up:
            count.floor_()
        return count.mul_(amplitude) if amplitude != 1 else count

    @staticmethod
    def backward(ctx, grad: Tensor):
        (window, ) = ctx.saved_tensors
        grad = window.to(grad.dtype).mul_(grad)
        if ctx.slope != 1:
            grad.mul_(ctx.slope)
        return grad, None, None, None, None, None, None


class SpikingNeuron(nn.Module):
    """Base of the neurons: what turns potentials into spikes over time.

    Time is folded into the batch, time-major: ``(T*B, ...)`` in and out.
    Nothing is remembered from one call to the next.

    Args:
        time_steps (int): T, the time steps folded into the batch.
            Defaults to 1.
    """

    def __init__(self, time_steps: int = 1) -> None:
        super().__init__()
        if time_steps < 1 or int(time_steps) != time_steps:
            raise ValueError('time_steps must be an integer >= 1, got '
                             f'{time_steps}')
        self.time_steps = time_steps

    def split_time(self, x: Tensor) -> Tensor:
        """(T*B, ...) -> (T, B, ...)."""
        if x.shape[0] % self.time_steps:
            raise ValueError(
                f'a batch of {x.shape[0]} does not hold time_steps='
                f'{self.time_steps} whole steps; fold time into the batch as '
                '(T*B, ...), or build the neuron with time_steps=1')
        return x.unflatten(0, (self.time_steps, -1))


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

    Shape: ``(T*B, ...)`` in, the same out, each value one of 0, a, .., D a.

    Args:
        levels (int): D, the largest spike count. Defaults to 4.
        threshold (float): :math:`\theta`, potential a spike costs.
            Defaults to 0.25.
        amplitude (float): a, what the next layer reads for one spike.
            Defaults to 0.25.
        leak (float): :math:`\beta`, share of the potential kept from one
            time step to the next. Defaults to 0.25.
        time_steps (int): T. Defaults to 1.
        rounding (str): 'half_up', which weights of the authors' code need
            (exact ties occur behind attention), or 'half_even' (torch.round,
            ONNX QuantizeLinear). Defaults to 'half_up'.
        closed_window (bool): Whether the gradient also passes at both ends
            of the window, :math:`0 \le H / \theta \le D`.
            Defaults to False.
        inplace (bool): Accepted, because mm modules pass it to activations;
            the input is never overwritten. Defaults to False.

    Raises:
        ValueError: For arguments out of range.

    Attributes:
        storage (str): How spikes are kept where gradients are recorded, at
            T = 1: as 'floats', as 'bytes', or as bytes that convolutions
            may read with a 'kernel' for integers. Same values; see
            :class:`IntegerTensor`.

    Source: QSD-Transformer (arXiv 2501.13492), with the recurrence of I-LIF
    (arXiv 2407.20708).
    """

    storage = 'floats'

    def __init__(self,
                 levels: int = 4,
                 threshold: float = 0.25,
                 amplitude: float = 0.25,
                 leak: float = 0.25,
                 time_steps: int = 1,
                 rounding: str = 'half_up',
                 closed_window: bool = False,
                 inplace: bool = False) -> None:
        super().__init__(time_steps)
        if levels < 1 or int(levels) != levels:
            raise ValueError(f'levels must be an integer >= 1, got {levels}')
        if threshold <= 0 or amplitude <= 0:
            raise ValueError('threshold and amplitude must be positive, got '
                             f'{threshold} and {amplitude}')
        if not 0 <= leak <= 1:
            raise ValueError(f'leak must be in [0, 1], got {leak}')
        if rounding not in ('half_up', 'half_even'):
            raise ValueError("rounding must be 'half_up' or 'half_even', got "
                             f'{rounding!r}')
        self.levels = int(levels)
        self.threshold = threshold
        self.amplitude = amplitude
        self.leak = leak
        self.rounding = rounding
        self.closed_window = closed_window

    def _fire(self, potential: Tensor, amplitude: float,
              storage: str = 'floats') -> Tensor:
        return _Spike.apply(potential, self.levels, self.threshold, amplitude,
                            self.rounding == 'half_up', self.closed_window,
                            storage)

    def count(self, potential: Tensor) -> Tensor:
        """Integer spike counts of one time step, C = round(clamp(H/theta))."""
        return self._fire(potential, 1.)

    def forward(self, x: Tensor) -> Tensor:
        if self.time_steps == 1:
            # A compiler decides by itself what is kept, and in which form.
            plain = self.levels > MAX_BYTE_LEVELS or torch.compiler.\
                is_compiling() or not torch.is_grad_enabled()
            return self._fire(x, self.amplitude,
                              'floats' if plain else self.storage)
        counts = []
        membrane = 0.
        for x_t in self.split_time(x):
            potential = self.leak * membrane + x_t
            counts.append(self.count(potential))
            membrane = potential - self.threshold * counts[-1]
        return torch.cat(counts) * self.amplitude  # (T*B, ...)

    def extra_repr(self) -> str:
        return (f'levels={self.levels}, threshold={self.threshold}, '
                f'amplitude={self.amplitude}, time_steps={self.time_steps}, '
                f'rounding={self.rounding}')


@MODELS.register_module()
class LIF(SpikingNeuron):
    r"""Binary leaky integrate-and-fire neuron, the baseline.

    SpikingJelly's ``LIFNode`` run over the folded time axis from rest:
    :math:`H[t] = V[t-1] + (X[t] - V[t-1]) / \tau`,
    :math:`S[t] = [H[t] \ge \theta]`, reset to 0 after a spike.

    Shape: ``(T*B, ...)`` in, the same out. Values in {0, 1}.

    Args:
        tau (float): Membrane time constant, in time steps. Defaults to 2.
        threshold (float): :math:`\theta`. Defaults to 1.
        time_steps (int): T. Defaults to 1.
        inplace (bool): Accepted, because mm modules pass it to activations.
            Defaults to False.

    Raises:
        ValueError: For arguments out of range.

    Source: SpikingJelly (Science Advances 2023), ``neuron.LIFNode``.
    """

    levels = 1
    amplitude = 1.

    def __init__(self,
                 tau: float = 2.,
                 threshold: float = 1.,
                 time_steps: int = 1,
                 inplace: bool = False) -> None:
        super().__init__(time_steps)
        if tau <= 1 or threshold <= 0:
            raise ValueError('tau must be > 1 and threshold positive, got '
                             f'{tau} and {threshold}')
        self.threshold = threshold
        self.node = neuron.LIFNode(
            tau=tau,
            v_threshold=threshold,
            surrogate_function=surrogate.ATan(),
            detach_reset=True,
            step_mode='m')

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self.node)
        spikes = self.node(self.split_time(x))  # (T, B, ...)
        functional.reset_net(self.node)  # leave no state to be pickled
        return spikes.flatten(0, 1)


def build_neuron(cfg: dict, time_steps: int = 1) -> nn.Module:
    """Build a neuron, or an activation such as ``dict(type='ReLU')``.

    Args:
        cfg (dict): Config of any registered activation or neuron.
        time_steps (int): T, given to neurons; activations keep no time.
    """
    cls = MODELS.get(cfg['type']) if isinstance(cfg['type'], str) \
        else cfg['type']
    if cls is None:
        raise KeyError(f'neuron type {cfg["type"]!r} is not registered; use '
                       "'mmqsdt.IELIF', 'mmqsdt.LIF' or an activation such "
                       "as 'ReLU'")
    if issubclass(cls, SpikingNeuron):
        cfg = {**cfg, 'time_steps': time_steps}
    return MODELS.build(cfg)
