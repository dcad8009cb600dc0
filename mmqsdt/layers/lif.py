"""What all neurons share, and the binary LIF, the baseline."""

from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from ..registry import MODELS


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
        if isinstance(threshold, str) or tau <= 1 or threshold <= 0:
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
