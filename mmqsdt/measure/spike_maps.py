"""Record the spikes of every neuron for one picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ..deploy.spikes import (
    encode,
    integer_counts,
    slot_weights,
    split_slots,
)
from .entropy import entropy_bits
from .firing import FiringRate
from .record import listening, neurons_of
from .style import stage_of


@dataclass(eq=False)  # maps are compared by identity
class SpikeMap:
    """What a neuron emitted for one picture.

    Attributes:
        layer (str): Path of the neuron, followed by ' (2)' and so on if it
            ran again on another map.
        levels (int): D.
        counts (Tensor): Spike counts, uint8, (T, C, H, W) if they lie over
            the picture; else of any shape, such as (regions, C, h, w).
        over_picture (bool): Whether they do.
    """
    layer: str
    levels: int
    counts: Tensor
    over_picture: bool

    @property
    def firing(self) -> FiringRate:
        """How often it fired; never, if no region was proposed."""
        return FiringRate(self.levels).add(self.counts)

    @property
    def rate(self) -> float:
        """Firing rate: mean count / D, 0..1."""
        return self.firing.rate

    @property
    def share_silent(self) -> float:
        """Share of counts that are 0."""
        return 1 - self.firing.share_nonzero

    def rate_map(self) -> Tensor:
        """Average over T and C: the firing rate by position, (H, W), 0..1."""
        return self.counts.double().mean((0, 1)) / self.levels

    def richest_channel(self) -> int:
        """Find the channel whose counts have the highest entropy.

        The first one, if several have it.
        """
        entropies = [
            entropy_bits(
                torch.bincount(c.flatten(), minlength=self.levels +
                               1).tolist())
            for c in self.counts.unbind(1)
        ]
        return entropies.index(max(entropies))

    def slots(self, encoding: str) -> Tensor:
        """Return the binary spikes that carry the counts.

        Args:
            encoding (str): See :func:`mmqsdt.deploy.spikes.slot_weights`.

        Returns:
            Tensor: (slots, T, C, H, W), uint8, 0 or 1. Weighted by
            :meth:`slot_weights` and summed, they are the counts.
        """
        # floor needs numbers that division does not wrap
        slots = encode(self.counts.float(), self.levels, encoding)
        number = len(self.slot_weights(encoding))
        return split_slots(slots.to(torch.uint8), number)

    def slot_weights(self, encoding: str) -> tuple[int, ...]:
        """Return how many spikes each slot stands for."""
        return slot_weights(self.levels, encoding)


@contextmanager
def recorded_spike_maps(model: nn.Module) -> Iterator[list[SpikeMap]]:
    """Collect the spikes of every neuron while a model runs on a picture.

    If a model runs its backbone several times, on parts of the picture, the
    last time counts.

    Args:
        model (nn.Module): In float form. Its ``backbone``, if it has one,
            reads the picture.

    Yields:
        list[SpikeMap]: Filled on the way, in the order of the network.

    Raises:
        ValueError: If the model has no spiking neuron.
    """
    maps: list[SpikeMap] = []

    def hear(name: str, neuron: nn.Module, x: Tensor, output: Tensor) -> None:
        times = 1 + sum(m.layer.partition(' ')[0] == name for m in maps)
        counts = integer_counts(neuron, output.detach())
        maps.append(
            SpikeMap(name if times == 1 else f'{name} ({times})',
                     neuron.levels, counts.to(torch.uint8).cpu(),
                     _lies_over_picture(name, neuron, output)))

    backbone = getattr(model, 'backbone', model)
    with listening(neurons_of(model), hear, restart=(backbone, maps)):
        yield maps


def _lies_over_picture(name: str, neuron: nn.Module, output: Tensor) -> bool:
    """Tell maps of the picture from vectors, and from regions of mmdet."""
    return output.dim() == 4 and len(output) == neuron.time_steps \
        and 'roi_head' not in name.split('.')


def choose_maps(maps: list[SpikeMap],
                patterns: list[str] | None = None) -> list[SpikeMap]:
    """Choose maps by path; by default the first of each stage, neck, head.

    Args:
        maps (list[SpikeMap]): Of one picture; only what lies over it counts.
        patterns (list[str], optional): Paths, in which ``*`` matches
            anything.

    Raises:
        ValueError: If a pattern matches nothing, or nothing lies over the
            picture.
    """
    maps = [m for m in maps if m.over_picture]
    if not maps:
        raise ValueError('this model has no spikes over the picture: all its '
                         'neurons read vectors or regions. An ANN '
                         'counterpart has none in its backbone')
    if patterns is None:
        firsts: dict[str, SpikeMap] = {}
        for m in maps:
            firsts.setdefault(stage_of(m.layer), m)
        return list(firsts.values())
    chosen = []
    for pattern in patterns:
        found = [m for m in maps if fnmatchcase(m.layer, pattern)]
        if not found:
            raise ValueError(
                f'no neuron over the picture is called {pattern!r}; there '
                f'is, for example, {maps[-1].layer!r}')
        chosen += [m for m in found if m not in chosen]
    return chosen


def to_dict(maps: list[SpikeMap]) -> dict:
    """Return the figures of a picture's maps, as plain data."""
    return dict(layers=[
        dict(layer=m.layer, levels=m.levels, over_picture=m.over_picture,
             shape=list(m.counts.shape), firing_rate=m.rate,
             share_silent=m.share_silent) for m in maps
    ])
