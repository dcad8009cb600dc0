"""Measure what spikes of q, k and v carry: distributions and entropy."""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from math import log2
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints.atomic import write_text
from ..deploy.spikes import integer_counts
from ..distill.losses import fgd_distance
from ..distill.recorder import TENSORS, Recorder, Tap, find_taps, record
from ..layers import IELIF, LIF, SpikingNeuron
from .firing import FiringRate
from .record import listening

# Potentials are outputs of a batch norm; those beyond count in the last bins.
# A bin is 1/16 wide, so that 0 and the published thresholds are edges.
BINS, LOWEST, HIGHEST = 128, -4., 4.


def entropy_bits(counts: Iterable[float]) -> float:
    r"""Return a histogram's entropy, :math:`-\sum_c p(c) log_2 p(c)`."""
    counts = [c for c in counts if c]
    total = sum(counts)
    return -sum(c / total * log2(c / total) for c in counts) + 0.


@dataclass
class TensorDistribution:
    """The potentials and spikes of q, k or v of one attention layer.

    Attributes:
        layer (str): Path of the attention layer.
        tensor (str): 'q', 'k' or 'v'.
        levels (int, optional): D; None for an activation of an ANN.
        thresholds (list[float]): Potentials at which the count becomes 1, 2,
            .. D, if the potential alone decides (T = 1); else empty.
        potentials (list[int]): Histogram of what the neuron reads, in BINS
            bins from LOWEST to HIGHEST.
        counts (list[int]): Histogram of spike counts 0..D; empty for an
            activation.
        fgd (float, optional): Mean FGD distance to the teacher.
    """
    layer: str
    tensor: str
    levels: int | None
    thresholds: list[float]
    potentials: list[int] = field(default_factory=lambda: [0] * BINS)
    counts: list[int] = field(default_factory=list)
    fgd: float | None = None

    @property
    def entropy(self) -> float | None:
        """Entropy of the spike counts in bits; None for an activation."""
        return entropy_bits(self.counts) if self.levels else None

    @property
    def bound(self) -> float | None:
        """The most that D + 1 counts can carry, log2(D + 1) bits."""
        return log2(self.levels + 1) if self.levels else None

    @property
    def firing_rate(self) -> float | None:
        """Mean count / D, 0..1; None for an activation."""
        if not self.levels:
            return None
        spikes = sum(c * n for c, n in enumerate(self.counts))
        return FiringRate(self.levels, sum(self.counts), spikes).rate


@dataclass
class EntropyReport:
    """Distributions of every layer, q, k and v.

    Attributes:
        rows (list[TensorDistribution]): Layer by layer.
        images (int): How many they are taken over.
    """
    rows: list[TensorDistribution]
    images: int

    def pooled(self, tensor: str) -> TensorDistribution:
        """Join the rows of one tensor over all layers; fgd is their mean."""
        rows = [row for row in self.rows if row.tensor == tensor]

        def add(name: str) -> list[int]:
            return [sum(n) for n in zip(*(getattr(r, name) for r in rows))]

        distances = [row.fgd for row in rows if row.fgd is not None]
        return TensorDistribution(
            'all', tensor, rows[0].levels, rows[0].thresholds,
            add('potentials'), add('counts'),
            sum(distances) / len(distances) if distances else None)

    def to_dict(self) -> dict:
        """Return plain data, derived figures included."""
        return dict(
            images=self.images,
            potential_bins=dict(
                number=BINS, lowest=LOWEST, highest=HIGHEST),
            layers=[
                dict(
                    asdict(row),
                    entropy_bits=row.entropy,
                    bound_bits=row.bound,
                    firing_rate=row.firing_rate) for row in self.rows
            ])


def write_json(reports: dict[str, EntropyReport], path: str | Path) -> None:
    """Write reports by name."""
    content = {name: report.to_dict() for name, report in reports.items()}
    write_text(path, json.dumps(content, indent=1) + '\n')


@torch.no_grad()
def spike_entropy(model: nn.Module,
                  batches: Iterable,
                  teacher: nn.Module | None = None) -> EntropyReport:
    """Measure what q, k and v of every attention layer carry.

    The entropy is that of single spike counts, of one time step each.

    Args:
        model (nn.Module): A whole model of MMPretrain, MMDetection or
            MMSegmentation with a QSDTransformer, or that backbone alone. Of
            an ANN counterpart only potentials are measured.
        batches (Iterable): Batches of the model's data loader, or tensors.
        teacher (nn.Module, optional): Measures the FGD distance to it. It
            reads the batches as the model preprocesses them; grids of
            different size are averaged down to the coarser.

    Returns:
        EntropyReport: One row for q, k, v of every layer.

    Raises:
        ValueError: If there is no batch, or no QSDTransformer, or the
            teacher has another number of attention layers.
    """
    backbone = getattr(model, 'backbone', model)
    taps = find_taps(backbone, owner='model')
    rows = [
        _new_row(path.rpartition('.')[0], x, backbone.get_submodule(path))
        for tap in taps for x, path in tap.paths.items()
    ]
    teacher = getattr(teacher, 'backbone', teacher)
    teacher_taps = _teacher_taps(teacher, len(taps))
    neurons = {f'{row.layer}.{row.tensor}_neuron': row for row in rows}
    images = 0
    with ExitStack() as cleanup:
        for network in (backbone, teacher):
            if network is not None:
                cleanup.callback(network.train, network.training)
                network.eval()
        cleanup.enter_context(listening(
            {path: backbone.get_submodule(path) for path in neurons},
            lambda path, neuron, x, output:
            _add(neurons[path], neuron, x, output)))
        recorder = Recorder(backbone, taps)
        cleanup.callback(recorder.close)
        if teacher is not None:
            teacher_recorder = Recorder(teacher, teacher_taps, 'teacher')
            cleanup.callback(teacher_recorder.close)
        for batch in batches:
            inputs = _preprocess(model, batch)
            ours = record(backbone, recorder, inputs)
            if teacher is not None:
                theirs = record(teacher, teacher_recorder, inputs)
                _add_distances(rows, theirs, ours, images)
            images += len(inputs)
    if not images:
        raise ValueError('no image to measure the entropy on')
    return EntropyReport(rows, images)


def _teacher_taps(teacher: nn.Module | None, layers: int) -> list[Tap]:
    if teacher is None:
        return []
    taps = find_taps(teacher, owner='teacher')
    if len(taps) != layers:
        raise ValueError(f'the teacher has {len(taps)} attention layers, the '
                         f'model {layers}')
    return taps


def _new_row(layer: str, tensor: str,
             neuron: nn.Module) -> TensorDistribution:
    if not isinstance(neuron, SpikingNeuron):
        return TensorDistribution(layer, tensor, None, [])
    thresholds = []
    if neuron.time_steps == 1 and isinstance(neuron, IELIF):
        thresholds = [
            neuron.threshold * (c - 0.5) for c in range(1, neuron.levels + 1)
        ]
    elif neuron.time_steps == 1 and isinstance(neuron, LIF):
        thresholds = [neuron.threshold * neuron.node.tau]
    return TensorDistribution(
        layer, tensor, neuron.levels, thresholds,
        counts=[0] * (neuron.levels + 1))


def _add(row: TensorDistribution, neuron: nn.Module, x: Tensor,
         output: Tensor) -> None:
    """Add what a neuron read and emitted to the histograms of its row."""
    width = (HIGHEST - LOWEST) / BINS
    bins = (x.float() / width).floor() - LOWEST / width
    found = torch.bincount(
        bins.clamp(0, BINS - 1).flatten().long(), minlength=BINS)
    row.potentials = [a + b for a, b in zip(row.potentials, found.tolist())]
    if row.levels:
        found = torch.bincount(
            integer_counts(neuron, output).flatten().long(),
            minlength=row.levels + 1)
        row.counts = [a + b for a, b in zip(row.counts, found.tolist())]


def _preprocess(model: nn.Module, batch) -> Tensor:
    if isinstance(batch, Tensor):
        return batch
    inputs = model.data_preprocessor(batch, False)
    return inputs['inputs'] if isinstance(inputs, Mapping) else inputs[0]


def _add_distances(rows: list[TensorDistribution], teacher, ours,
                   before: int) -> None:
    """Update the means, which are over ``before`` images so far."""
    distances = [
        fgd_distance(of_teacher[x], of_model[x], *grids).mean(1)
        for of_teacher, of_model, *grids in zip(
            teacher.tensors, ours.tensors, teacher.grids, ours.grids)
        for x in TENSORS
    ]
    for row, distance in zip(rows, distances):
        total = (row.fgd or 0.) * before + float(distance.sum())
        row.fgd = total / (before + len(distance))
