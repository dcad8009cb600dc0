"""How often neurons fire."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from ..deploy.spikes import integer_counts
from .record import listening, neurons_of


@dataclass
class FiringRate:
    """What one neuron fired.

    Attributes:
        levels (int): D.
        elements (int): Counts seen.
        spikes (int): Their sum.
        nonzero (int): How many of them are not zero.
    """
    levels: int
    elements: int = 0
    spikes: int = 0
    nonzero: int = 0

    def __add__(self, other: 'FiringRate') -> 'FiringRate':
        """Add the counts of two neurons; D is the larger of theirs."""
        return FiringRate(max(self.levels, other.levels),
                          self.elements + other.elements,
                          self.spikes + other.spikes,
                          self.nonzero + other.nonzero)

    def add(self, counts: Tensor) -> 'FiringRate':
        """Add counts, which may differ from whole numbers by rounding."""
        counts = counts.detach().round()
        self.elements += counts.numel()
        self.spikes += int(counts.double().sum())
        self.nonzero += int(counts.count_nonzero())
        return self

    @property
    def mean_count(self) -> float:
        """Mean spike count C of an element, 0..D."""
        return self.spikes / max(self.elements, 1)

    @property
    def rate(self) -> float:
        """Firing rate: mean count / D, 0..1."""
        return self.mean_count / self.levels

    @property
    def share_nonzero(self) -> float:
        """Share of elements that fire at all, 0..1."""
        return self.nonzero / max(self.elements, 1)


@contextmanager
def recorded_firing_rates(model: nn.Module) -> Iterator[dict[str, FiringRate]]:
    """Collect firing rates of every neuron while the model runs.

    Args:
        model (nn.Module): In float, integer or spike form.

    Yields:
        dict[str, FiringRate]: By path of the neuron, filled on the way.

    Raises:
        ValueError: If the model has no spiking neuron.

    Example::

        >>> with recorded_firing_rates(model) as rates:
        ...     model(images)
        >>> rates['backbone.stages.1.downsample.neuron'].rate
    """
    neurons = neurons_of(model)
    rates = {name: FiringRate(n.levels) for name, n in neurons.items()}

    def hear(name: str, neuron: nn.Module, x: Tensor, output: Tensor) -> None:
        rates[name].add(integer_counts(neuron, output))

    with listening(neurons, hear):
        yield rates
