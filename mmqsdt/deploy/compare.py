"""Are two forms of a model equal? Spike by spike, and in their outputs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..layers import IELIF, LIF, SpikingNeuron
from .operations import tensors
from .spikes import integer_counts, spiking_neurons


@dataclass
class NeuronReport:
    """How far the counts of one neuron agree.

    Attributes:
        name (str): Path of the neuron in the float model.
        elements (int): Counts compared.
        flips (int): Counts that differ.
        min_distance (float): Of all potentials of the float model, the
            smallest distance to where the count would change; nan for
            neurons that are neither IELIF nor LIF.
        flip_distance (float): The largest such distance among flips, those
            aside that a flip in an earlier time step left a membrane for;
            0 without any. Rounding noise, unless an earlier neuron flipped.
        max_difference (float): Largest difference of the potentials.
    """
    name: str
    elements: int = 0
    flips: int = 0
    min_distance: float = float('inf')
    flip_distance: float = 0.
    max_difference: float = 0.

    def add(self, neuron: SpikingNeuron, potential: Tensor | None,
            counts: Tensor, others: Tensor) -> None:
        """Compare the counts of one call with those of another form."""
        flipped = counts != others
        self.elements += counts.numel()
        self.flips += int(flipped.sum())
        if potential is None:
            self.min_distance = float('nan')
        elif potential.numel():
            distance = threshold_distance(neuron, potential)
            self.min_distance = min(self.min_distance, float(distance.min()))
            if flipped.any():
                first = first_flips(neuron, flipped)
                self.flip_distance = max(self.flip_distance,
                                         float(distance[first].max()))


@dataclass
class FormReport:
    """Result of :func:`compare_forms`, neurons in order of execution.

    Attributes:
        neurons (list[NeuronReport]): One for each neuron.
        output_error (float): Largest absolute difference of an output
            tensor over its largest absolute value.
    """
    neurons: list[NeuronReport] = field(default_factory=list)
    output_error: float = 0.

    @property
    def flips(self) -> int:
        """Counts that differ, over all neurons."""
        return sum(n.flips for n in self.neurons)

    @property
    def elements(self) -> int:
        """Counts compared, over all neurons."""
        return sum(n.elements for n in self.neurons)

    @property
    def first_flip(self) -> NeuronReport | None:
        """The first neuron with a flip: all later ones may follow from it."""
        return next((n for n in self.neurons if n.flips), None)

    def __str__(self) -> str:
        lines = [f'{self.flips} of {self.elements} spike counts differ; '
                 f'outputs differ by {self.output_error:.1e} of their '
                 'largest value']
        if self.first_flip:
            lines.append(
                f'first at {self.first_flip.name}: '
                f'{self.first_flip.flips} within '
                f'{self.first_flip.flip_distance:.1e} of a threshold')
        lines.append(f'{"flips":>7} {"of":>9} {"threshold":>10} '
                     f'{"difference":>10}  neuron')
        lines += [
            f'{n.flips:7d} {n.elements:9d} {n.min_distance:10.1e} '
            f'{n.max_difference:10.1e}  {n.name}' for n in self.neurons
        ]
        return '\n'.join(lines)


def membrane_potentials(neuron: SpikingNeuron, x: Tensor,
                        counts: Tensor) -> Tensor | None:
    """H[t] of every step, from the input and the counts, both (T*B, ...)."""
    potentials, membrane = [], 0.
    for x_t, count in zip(neuron.split_time(x), neuron.split_time(counts)):
        if isinstance(neuron, IELIF):
            potential = neuron.leak * membrane + x_t
            membrane = potential - neuron.threshold * count
        elif isinstance(neuron, LIF):
            potential = membrane + (x_t - membrane) / neuron.node.tau
            membrane = potential * (1 - count)
        else:
            return None
        potentials.append(potential)
    return torch.cat(potentials)


def threshold_distance(neuron: IELIF | LIF, potential: Tensor) -> Tensor:
    """Distance of each potential to where the count would change."""
    u = potential / neuron.threshold
    if isinstance(neuron, LIF):
        nearest = torch.ones_like(u)
    else:
        nearest = u.floor().clamp(0, neuron.levels - 1) + 0.5
    return (u - nearest).abs() * neuron.threshold


def first_flips(neuron: SpikingNeuron, flipped: Tensor) -> Tensor:
    """Those of the flips, (T*B, ...), without one in an earlier step."""
    steps = neuron.split_time(flipped)
    return (steps & (steps.cumsum(0) == 1)).flatten(0, 1)


@contextmanager
def recorded_neurons(
        model: nn.Module,
        forced: dict[str, list] | None = None) -> Iterator[dict[str, list]]:
    """Record (potential or None, counts) of every call of every neuron.

    Args:
        model (nn.Module): In any form.
        forced (dict, optional): Records of another form. The neurons then
            put out these counts, whatever they computed.
    """
    records: dict[str, list] = {}
    handles = []
    for name, neuron in spiking_neurons(model).items():

        def record(module, args, output, name=name):
            counts = integer_counts(module, output)
            potential = membrane_potentials(module, args[0], counts)
            calls = records.setdefault(name, [])
            calls.append((potential, counts))
            if forced is None or len(calls) > len(forced.get(name, ())):
                return None
            return forced[name][len(calls) - 1][1] * module.amplitude

        handles.append(neuron.register_forward_hook(record))
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _run(
    model: nn.Module, inputs, forced: dict[str, list] | None = None
) -> tuple[dict[str, list], list[Tensor]]:
    training = model.training
    model.eval()
    with recorded_neurons(model, forced) as records:
        if isinstance(inputs, Mapping):
            outputs = model(**inputs)
        elif isinstance(inputs, Tensor):
            outputs = model(inputs)
        else:
            outputs = model(*inputs)
    model.train(training)
    return records, list(tensors(outputs))


def compare_forms(float_model: nn.Module,
                  other: nn.Module,
                  inputs,
                  isolate: bool = False) -> FormReport:
    """Run two forms of a model on the same input and compare every spike.

    In float32 the forms round differently: the float form multiplies by
    step sizes before it sums, the others after. A potential within some
    1e-6 of a threshold may then fire in one form and not in the other, and
    later neurons follow. In float64 (convert ``model.double()``) no count
    differs. On a GPU, TF32 has to be off: it rounds real-valued products to
    10 bits.

    Args:
        float_model (nn.Module): As trained.
        other (nn.Module): Made from it by :func:`to_integer` or
            :func:`to_spikes`.
        inputs (Tensor | tuple | dict): Given to both ``forward``.
        isolate (bool): Whether the neurons of the other form pass on the
            counts of the float form, so that every flip is counted where it
            arises and none follows from another. Defaults to False.

    Returns:
        FormReport: Printable.

    Raises:
        ValueError: If the two are not forms of one model, or a flip changed
            the number of regions that a detector looked at.
    """
    mine, outputs = _run(float_model, inputs)
    theirs, other_outputs = _run(other, inputs, mine if isolate else None)
    if mine.keys() != theirs.keys():
        name = next(iter(mine.keys() ^ theirs.keys()))
        raise ValueError(f'not two forms of one model: {name} runs in one '
                         'only')
    report = FormReport()
    neurons = spiking_neurons(float_model)
    for name, calls in mine.items():
        entry = NeuronReport(name)
        report.neurons.append(entry)
        if len(calls) != len(theirs[name]):
            raise ValueError(f'{name} runs {len(calls)} times in one form, '
                             f'{len(theirs[name])} times in the other')
        for (potential, counts), (other_potential, other_counts) in zip(
                calls, theirs[name]):
            if counts.shape != other_counts.shape:
                raise ValueError(
                    f'{name} reads {tuple(counts.shape)} in one form, '
                    f'{tuple(other_counts.shape)} in the other: an earlier '
                    'flip changed the number of regions; compare the '
                    'backbone alone, or in float64')
            entry.add(neurons[name], potential, counts, other_counts)
            if potential is not None and other_potential is not None \
                    and potential.numel():
                entry.max_difference = max(
                    entry.max_difference,
                    float((potential - other_potential).abs().max()))
    report.output_error = _output_error(outputs, other_outputs)
    return report


def _output_error(outputs: list[Tensor], others: list[Tensor]) -> float:
    error = 0. if len(outputs) == len(others) else float('inf')
    for a, b in zip(outputs, others):
        if a.shape != b.shape:
            return float('inf')
        if a.numel():
            a, b = a.double(), b.double()
            largest = max(float(a.abs().max()), 1e-30)
            error = max(error, float((a - b).abs().max()) / largest)
    return error
