r"""Operations and energy of a spiking model, layer by layer.

Every figure is for one image. MAC: multiply-accumulate; AC: accumulate.
Only convolutions and matrix products count, not norms, neurons, sums of
slots or residual sums. Measures:

- ann: the ANN counterpart, the same graph with every product a MAC.
- formula: the field's formula. A layer that reads spikes costs
  :math:`E_{AC} \cdot MACs \cdot \bar C` with the mean spike count
  :math:`\bar C` of its neuron, q (k^T v) costs
  :math:`E_{AC} \cdot MACs / 2 \cdot (\bar C_k \bar C_v + \bar C_q)`, and a
  layer that reads real values :math:`E_{MAC} \cdot MACs`.
- as_published: the same formula as papers use it. Only the stem and stock
  layers read real values: RepConv is taken as merged into one 3x3 conv over
  spikes, and the last 1x1 of SepConv as reading the spikes before it. Its
  ANN counterpart, ann_as_published, has the merged convs too.
- counted_<encoding>: operations counted one by one on the spike form, with
  SpikingJelly's counters.
- bits_<encoding>: those, each in proportion to its width,
  :math:`E_{AC} \cdot AC \cdot b_w / 32 + E_{MAC} \cdot MAC \cdot b_w b_a /
  32^2`, with 32-bit real-valued activations; q (k^T v), which has no
  weights, at full width.

Sources: 4.6 and 0.9 pJ for 32-bit floats in 45 nm, and an integer adder
whose cost is linear and a multiplier whose cost is quadratic in the width,
Horowitz (ISSCC 2014); the formula as in Spike-driven Transformer V2 (arXiv
2404.03663); b_w b_a as the effort of a multiplication, PokeBNN (arXiv
2112.00133).
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from spikingjelly.activation_based.op_counter import (
    BaseCounter,
    DispatchCounterMode,
    MACCounter,
    SynOpCounter,
)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from ..deploy.describe import LayerDescription, describe
from ..deploy.forms import check_convertible, to_spikes
from ..deploy.spikes import spiking_neurons
from ..deploy.structure import find_layers
from ..layers import RepConv, SepConv, SpikeAttention, SpikingNeuron
from .firing import recorded_firing_rates

OTHER = 'other products'


@dataclass
class EnergyCosts:
    """Energy of one operation, in pJ: 32-bit floats in 45 nm."""
    mac_pj: float = 4.6
    ac_pj: float = 0.9

    def __post_init__(self) -> None:
        if self.mac_pj < 0 or self.ac_pj < 0:
            raise ValueError(f'costs cannot be negative, got {self}')

    def millijoule(self, ac: float, mac: float) -> float:
        """Energy of so many operations, in mJ."""
        return (self.ac_pj * ac + self.mac_pj * mac) * 1e-9


@dataclass
class LayerEnergy:
    """Operations and energy of one layer for one image.

    Attributes:
        name (str): Path in the model.
        part (str): The model's child it belongs to, e.g. 'backbone'.
        kind, reads, levels, bits, operation: See
            :class:`mmqsdt.deploy.LayerDescription`.
        macs (float): Dense multiply-accumulates, over all time steps.
        firing_rate (float, optional): Mean count / D of what it reads.
        share_nonzero (float, optional): Share of elements that fire.
        synaptic_operations (float): Accumulates by the field's formula; 0
            for a layer that reads real values.
        counted (dict[str, dict[str, float]]): Encoding -> {'ac', 'mac'}.
        energy (dict[str, float]): Measure -> mJ.
    """
    name: str
    part: str
    kind: str
    reads: str
    levels: int | None
    bits: int | None
    operation: str
    macs: float = 0.
    firing_rate: float | None = None
    share_nonzero: float | None = None
    synaptic_operations: float = 0.
    counted: dict[str, dict[str, float]] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)


@dataclass
class EnergyReport:
    """Result of :func:`measure_energy`.

    Attributes:
        layers (list[LayerEnergy]): In order of the model.
        images (int): Images it is the mean of.
        costs (EnergyCosts): What an operation costs.
    """
    layers: list[LayerEnergy]
    images: int
    costs: EnergyCosts

    @property
    def measures(self) -> list[str]:
        """Names of the measures."""
        return list(self.layers[0].energy)

    def totals(self) -> dict[str, dict[str, float]]:
        """Part of the model -> measure -> mJ, the whole as 'total'."""
        parts = list(dict.fromkeys(layer.part for layer in self.layers))
        sums = {
            part: {
                m: sum(x.energy[m] for x in self.layers if x.part == part)
                for m in self.measures
            }
            for part in parts
        }
        sums['total'] = {
            m: sum(x.energy[m] for x in self.layers)
            for m in self.measures
        }
        return sums

    def ratios(self) -> dict[str, float]:
        """Measure -> energy of the ANN counterpart over that of the model."""
        total = self.totals()['total']
        return {
            m: total[self.counterpart(m)] / total[m]
            for m in self.measures if not m.startswith('ann')
        }

    @staticmethod
    def counterpart(measure: str) -> str:
        """The measure of the ANN that a measure is compared with."""
        return 'ann_as_published' if measure == 'as_published' else 'ann'

    def write_json(self, path: str | Path) -> None:
        """Write everything, layers and totals."""
        content = dict(
            images=self.images,
            costs=asdict(self.costs),
            totals_millijoule=self.totals(),
            ann_over_model=self.ratios(),
            layers=[asdict(layer) for layer in self.layers])
        Path(path).write_text(json.dumps(content, indent=2) + '\n')

    def write_csv(self, path: str | Path) -> None:
        """Write one line a layer."""
        rows = []
        for layer in self.layers:
            row = asdict(layer)
            for encoding, counts in row.pop('counted').items():
                for kind, count in counts.items():
                    row[f'{kind}_{encoding}'] = count
            for measure, energy in row.pop('energy').items():
                row[f'millijoule_{measure}'] = energy
            rows.append(row)
        with open(path, 'w', newline='') as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def measure_energy(
    model: nn.Module,
    batches: Iterable,
    costs: EnergyCosts | None = None,
    encodings: tuple[str, ...] = ('thermometer', 'bitwise')
) -> EnergyReport:
    """Run a model on data and measure operations and energy of every layer.

    Args:
        model (nn.Module): In float form. A whole model of MMPretrain,
            MMDetection or MMSegmentation, or any part of one.
        batches (Iterable): Batches of the model's data loader, given to
            ``test_step``; or tensors, for a model that has none.
        costs (EnergyCosts, optional): Defaults to 4.6 and 0.9 pJ.
        encodings (tuple[str]): Slot encodings to count; see
            :func:`mmqsdt.deploy.to_spikes`. Defaults to both.

    Returns:
        EnergyReport: Means over the images.

    Raises:
        ValueError: If the model is not a spiking one, or there is no batch.
    """
    check_convertible(model)
    costs = costs or EnergyCosts()
    batches = list(batches)
    images = sum(_number_of_images(batch) for batch in batches)
    if not images:
        raise ValueError('no image to measure the energy on')
    training = model.training
    model.eval()
    rows = {d.name: _new_row(d) for d in describe(model)}
    rows[OTHER] = LayerEnergy(OTHER, 'other', '', 'real', None, 32, 'MAC')
    _count_dense(model, batches, rows)
    for encoding in encodings:
        _count_slots(model, batches, rows, encoding)
    model.train(training)
    published = _published_operations(model, rows)
    for name, row in rows.items():
        _finish(row, published.get(name), images, costs)
    if not any(rows[OTHER].energy.values()):
        del rows[OTHER]
    return EnergyReport(list(rows.values()), images, costs)


def _new_row(layer: LayerDescription) -> LayerEnergy:
    return LayerEnergy(part=layer.name.split('.')[0], **asdict(layer))


def _number_of_images(batch) -> int:
    return len(batch['inputs'] if isinstance(batch, Mapping) else batch)


@torch.no_grad()
def _run(model: nn.Module, batches: list) -> None:
    step: Callable = getattr(model, 'test_step', model)
    for batch in batches:
        step(batch)


def _count_dense(model: nn.Module, batches: list,
                 rows: dict[str, LayerEnergy]) -> None:
    """Fill in MACs, firing rates and the formula's synaptic operations."""
    with FlopCounterMode(display=False) as counter, \
            recorded_firing_rates(model) as rates:
        _run(model, batches)
    flops = {
        name: sum(ops.values())
        for name, ops in counter.get_flop_counts().items()
    }
    root = type(model).__name__
    attentions = _spike_attentions(model)
    for name, row in rows.items():
        row.macs = flops.get(f'{root}.{name}', 0) / 2
    for name in attentions:
        inside = sum(row.macs for other, row in rows.items()
                     if other.startswith(f'{name}.'))
        row = rows[f'{name}.product']
        row.macs = flops.get(f'{root}.{name}', 0) / 2 - inside
    rows[OTHER].macs = flops['Global'] / 2 - sum(r.macs for r in rows.values())

    paths = {neuron: name for name, neuron in spiking_neurons(model).items()}
    for name, layer in find_layers(model).items():
        if layer.neuron is not None:
            rate = rates[paths[layer.neuron]]
            rows[name].firing_rate = rate.rate
            rows[name].share_nonzero = rate.share_nonzero
            rows[name].synaptic_operations = rows[name].macs * rate.mean_count
    for name, attention in attentions.items():
        q, k, v = (rates[paths[getattr(attention, f'{x}_neuron')]].mean_count
                   for x in 'qkv')
        row = rows[f'{name}.product']
        row.synaptic_operations = row.macs / 2 * (k * v + q)


def _spike_attentions(model: nn.Module) -> dict[str, SpikeAttention]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, SpikeAttention)
        and isinstance(module.q_neuron, SpikingNeuron)
    }


def _count_slots(model: nn.Module, batches: list, rows: dict[str, LayerEnergy],
                 encoding: str) -> None:
    """Fill in the operations of the spike form, one by one."""
    synops = SynOpCounter()
    macs = MACCounter(extra_ignore_modules=[_BatchNorm])
    with DispatchCounterMode([synops, macs]):
        _run(to_spikes(model, encoding), batches)
    counters: dict[str, BaseCounter] = dict(ac=synops, mac=macs)
    root = type(model).__name__
    for kind, counter in counters.items():
        counts = counter.get_counts()
        rest = counter.get_total()
        for name, row in rows.items():
            count = sum(counts.get(f'{root}.{name}', {}).values())
            row.counted.setdefault(encoding, {})[kind] = float(count)
            rest -= count
        rows[OTHER].counted[encoding][kind] = float(rest)


def _published_operations(
    model: nn.Module, rows: dict[str, LayerEnergy]
) -> dict[str, tuple[float, float, float]]:
    """AC, MAC, and MAC of the ANN, where papers count in another way."""
    operations: dict[str, tuple[float, float, float]] = {}
    for name, module in model.named_modules():
        if isinstance(module, RepConv) and \
                rows[f'{name}.pointwise1'].reads == 'spike':
            # C x C weights become C x C x 3 x 3, over the same spikes.
            first = rows[f'{name}.pointwise1']
            operations[first.name] = (9 * first.synaptic_operations, 0,
                                      9 * first.macs)
            operations[f'{name}.depthwise'] = (0, 0, 0)
            operations[f'{name}.pointwise2'] = (0, 0, 0)
        elif isinstance(module, SepConv) and \
                rows[f'{name}.depthwise'].reads == 'spike':
            spikes = rows[f'{name}.depthwise']
            mean_count = spikes.firing_rate * spikes.levels
            last = rows[f'{name}.project']
            operations[last.name] = (last.macs * mean_count, 0, last.macs)
    return operations


def _finish(row: LayerEnergy, published: tuple[float, float, float] | None,
            images: int, costs: EnergyCosts) -> None:
    """From sums over all images to means, from operations to energy."""
    dense = row.macs if row.reads == 'real' else 0
    published = published or (row.synaptic_operations, dense, row.macs)
    ac, mac, ann_mac = (count / images for count in published)
    row.macs /= images
    row.synaptic_operations /= images
    row.energy = dict(
        ann=costs.millijoule(0, row.macs),
        ann_as_published=costs.millijoule(0, ann_mac),
        formula=costs.millijoule(row.synaptic_operations, dense / images),
        as_published=costs.millijoule(ac, mac))
    width = (row.bits or 32) / 32
    for encoding, counts in row.counted.items():
        counts['ac'] /= images
        counts['mac'] /= images
        row.energy[f'counted_{encoding}'] = costs.millijoule(
            counts['ac'], counts['mac'])
    for encoding, counts in row.counted.items():
        row.energy[f'bits_{encoding}'] = costs.millijoule(
            counts['ac'] * width, counts['mac'] * width)
