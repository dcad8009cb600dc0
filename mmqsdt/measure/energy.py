r"""Operations and energy of a spiking model, layer by layer.

Every figure is for one image, over all its time steps. MAC:
multiply-accumulate; AC: accumulate. Only convolutions and matrix products
count, not norms, neurons, sums of slots or residual sums. A layer that reads
real values (the stem, stock layers, and in the published architecture the
inner convs of RepConv and the last 1x1 of SepConv) always counts as MAC.
Measures:

- ann: the ANN counterpart, the same graph with every product a MAC. It has
  no time steps: it sees a picture once, and each frame of a sequence.
- formula: the field's formula. A layer that reads spikes costs
  :math:`E_{AC} \cdot MACs \cdot \bar C` with the mean spike count
  :math:`\bar C` of its neuron, and q (k^T v) costs
  :math:`E_{AC} \cdot MACs / 2 \cdot (\bar C_k \bar C_v + \bar C_q)`, as if k
  and v fired independently. Real values: :math:`E_{MAC} \cdot MACs`.
- as_published: the same formula as papers use it. Only the stem and stock
  layers read real values: RepConv is taken as merged into one 3x3 conv over
  spikes, and the last 1x1 of SepConv as reading the spikes before it. Its
  ANN counterpart, ann_as_published, has the merged convs too.
- counted_<encoding>: accumulations counted one by one on the spike form, of
  convs and linear layers by SpikingJelly's ``SynOpCounter``: one for every
  spike and every weight it meets, zero weights too, none in the padding; in
  k^T v one for every pair of spikes that meet, in q (k^T v) one for every
  spike of q and every channel of v.
- bits_<encoding>: those, each in proportion to its width,
  :math:`E_{AC} \cdot AC \cdot b_w / 32 + E_{MAC} \cdot MAC \cdot b_w b_a /
  32^2`, with binary spikes, real-valued activations of :math:`b_a = 32`, and
  q (k^T v), which has no weights, at full width.

Sources: 4.6 and 0.9 pJ for 32-bit floats in 45 nm, and an integer adder
whose cost is linear and a multiplier whose cost is quadratic in the width,
Horowitz (ISSCC 2014); the formula as in Spike-driven Transformer V2 (arXiv
2404.03663); b_w b_a as the effort of a multiplication, PokeBNN (arXiv
2112.00133).
"""

import csv
import io
import json
import operator
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import reduce
from math import prod
from pathlib import Path

import torch
from spikingjelly.activation_based.op_counter import (
    DispatchCounterMode,
    SynOpCounter,
)
from torch import Tensor, nn

from ..checkpoints.atomic import write_text
from ..deploy.describe import LayerDescription, describe_program
from ..deploy.forms import check_convertible, convert
from ..deploy.program import Program
from ..deploy.spikes import ENCODINGS, SlotProduct, split_slots
from ..layers import RepConv, SepConv
from ..models.backbones.qsd_transformer import QSDTransformer
from .firing import FiringRate
from .meter import Meter

OTHER = 'other products'
aten = torch.ops.aten


@dataclass
class EnergyCosts:
    """Energy of one operation, in pJ: 32-bit floats in 45 nm.

    Args:
        mac_pj (float): Of a multiply-accumulate. Defaults to 4.6.
        ac_pj (float): Of an accumulate. Defaults to 0.9.

    Raises:
        ValueError: If they are not positive.
    """
    mac_pj: float = 4.6
    ac_pj: float = 0.9

    def __post_init__(self) -> None:
        if not (self.mac_pj > 0 and self.ac_pj > 0):
            raise ValueError(f'costs must be positive, got {self}')

    def millijoule(self, ac: float, mac: float) -> float:
        """Energy of so many operations, in mJ."""
        return (self.ac_pj * ac + self.mac_pj * mac) * 1e-9


@dataclass
class LayerEnergy:
    """Operations and energy of one layer for one image.

    Attributes:
        name (str): Path in the model.
        part (str): The model's child it belongs to, e.g. 'backbone'.
        kind, reads, levels, bits, operation, source: See
            :class:`mmqsdt.deploy.LayerDescription`.
        macs (float): Multiply-accumulates of the dense layer, padding
            included.
        ann_macs (float): The same of the ANN counterpart; fewer if a
            picture is repeated over time.
        firing_rate (float, optional): Mean count / D of what it reads; of
            q, k and v together for their product.
        share_nonzero (float, optional): Share of elements that fire, of the
            same.
        synaptic_operations (float): Accumulates by the field's formula; 0
            for a layer that reads real values.
        counted (dict[str, dict[str, float]]): Encoding -> {'ac', 'mac'},
            one of which is 0.
        energy (dict[str, float]): Measure -> mJ.
    """
    name: str
    part: str
    kind: str
    reads: str
    levels: int | None
    bits: int | None
    operation: str
    source: str = ''
    macs: float = 0.
    ann_macs: float = 0.
    firing_rate: float | None = None
    share_nonzero: float | None = None
    synaptic_operations: float = 0.
    counted: dict[str, dict[str, float]] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)


@dataclass
class EnergyReport:
    """Result of :func:`measure_energy`.

    Attributes:
        layers (list[LayerEnergy]): In order of the model; without those
            that did not run, such as an auxiliary head.
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
        """Measure -> energy of the ANN counterpart over that of the model.

        Without the measures by which the model needs no energy at all.
        """
        total = self.totals()['total']
        return {
            m: total[self.counterpart(m)] / total[m]
            for m in self.measures if not m.startswith('ann') and total[m]
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
        write_text(path, json.dumps(content, indent=2) + '\n')

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
        file = io.StringIO(newline='')
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, file.getvalue())


def measure_energy(model: nn.Module,
                   batches: Iterable,
                   costs: EnergyCosts | None = None) -> EnergyReport:
    """Run a model on data and measure operations and energy of every layer.

    Args:
        model (nn.Module): In float form. A whole model of MMPretrain,
            MMDetection or MMSegmentation, or any part of one. Measured in
            eval mode, on a copy.
        batches (Iterable): Batches of the model's data loader (dicts), given
            to its ``test_step``; or tensors, given to its forward.
        costs (EnergyCosts, optional): Defaults to 4.6 and 0.9 pJ.

    Returns:
        EnergyReport: Means over the images.

    Raises:
        ValueError: If the model is not a spiking one, or there is no image.
    """
    check_convertible(model)
    costs = costs or EnergyCosts()
    batches = list(batches)
    images = sum(_number_of_images(batch) for batch in batches)
    if not images:
        raise ValueError('no image to measure the energy on')
    model = deepcopy(model).eval()
    meter = Meter(model)
    with meter.flops:
        _run(model, batches, meter.call)
    program = Program(model, meter)
    rows = {d.name: _new_row(d) for d in describe_program(program)}
    rows[OTHER] = LayerEnergy(OTHER, 'other', '', 'real', None, 32, 'MAC')
    _fill_in(rows, meter, program, _repeated_pictures(model, batches[0]))
    for encoding in ENCODINGS:
        _count_slots(model, batches, rows, encoding, program)
    published = _published_operations(model, rows)
    for name, row in rows.items():
        _finish(row, published.get(name), images, costs)
    ran = [row for row in rows.values() if row.macs]
    return EnergyReport(ran, images, costs)


def _new_row(layer: LayerDescription) -> LayerEnergy:
    return LayerEnergy(part=layer.name.split('.')[0], **asdict(layer))


def _number_of_images(batch) -> int:
    return len(batch['inputs'] if isinstance(batch, Mapping) else batch)


@torch.no_grad()
def _run(model: nn.Module, batches: list,
         call: Callable = lambda function, batch: function(batch)) -> None:
    for batch in batches:
        call(model.test_step if isinstance(batch, Mapping) else model, batch)


def _fill_in(rows: dict[str, LayerEnergy], meter: Meter, program: Program,
             repeated: dict[str, int]) -> None:
    """Fill in MACs, firing rates and the formula's synaptic operations."""
    flops = _by_module(meter.flops.get_flop_counts(), meter.model)
    other = meter.flops.get_total_flops() / 2
    for name, entry in program.layers.items():
        row = rows[name]
        row.macs = flops.get(name, 0) / 2
        other -= row.macs
        if entry.spikes is not None:
            rate = meter.layers[entry.layer]
            _set_rate(row, rate)
            row.synaptic_operations = row.macs * rate.mean_count
    for name, product in program.products.items():
        row, read = rows[name], []
        for macs, rates in meter.parts[product]:
            row.macs += sum(macs)
            row.synaptic_operations += sum(macs) * prod(
                rate.mean_count for rate in rates)
            read += rates
        if not product.elementwise:  # PyTorch's counter knows none
            other -= row.macs
        _set_rate(row, reduce(operator.add, read))
    rows[OTHER].macs = other
    for row in rows.values():
        row.ann_macs = row.macs
    for path, steps in repeated.items():
        for name, row in rows.items():
            if name.startswith(_join(path, '')):
                row.ann_macs = row.macs / steps


def _repeated_pictures(model: nn.Module, batch) -> dict[str, int]:
    """Paths of backbones that see a picture T times -> T."""
    images = batch['inputs'] if isinstance(batch, Mapping) else batch
    return {
        name: module.time_steps
        for name, module in model.named_modules()
        if isinstance(module, QSDTransformer) and images[0].dim() == 3
    }


def _by_module(counts: Mapping[str, Mapping],
               model: nn.Module) -> dict[str, int]:
    """Counts of a counter by path; of a shared module by its first path.

    PyTorch's module tracker names a shared module after the parent that ran
    last, so it has counts under each of its paths.
    """
    root = type(model).__name__
    first: dict[nn.Module, str] = {}
    sums: dict[str, int] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        path = _join(root, name) if name else root
        count = sum(counts.get(path, {}).values())
        name = first.setdefault(module, name)
        sums[name] = sums.get(name, 0) + count
    return sums


def _join(path: str, child: str) -> str:
    """Path of a child; the path of the model itself is ''."""
    return f'{path}.{child}' if path else child


def _set_rate(row: LayerEnergy, rate: FiringRate) -> None:
    row.firing_rate, row.share_nonzero = rate.rate, rate.share_nonzero


def _count_slots(model: nn.Module, batches: list, rows: dict[str, LayerEnergy],
                 encoding: str, program: Program) -> None:
    """Fill in the operations of the spike form.

    What reads real values is taken as dense, not counted: the counter tells
    spikes by their values, and a real-valued map can happen to be all zero.
    """
    model = convert(model, encoding, program=program)
    products: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, SlotProduct):
            products[name] = 0

            def count(module, args, name=name):
                products[name] += _product_operations(module, *args)

            module.register_forward_pre_hook(count)
    counter = _spike_counter()
    with DispatchCounterMode([counter]):
        _run(model, batches)
    counts = _by_module(counter.get_counts(), model) | products
    if hasattr(model, 'slot_products'):
        counts |= model.slot_products.operations
    for name, row in rows.items():
        spikes = row.reads == 'spike'
        row.counted[encoding] = dict(
            ac=float(counts[name]) if spikes else 0.,
            mac=0. if spikes else row.macs)


def _spike_counter() -> SynOpCounter:
    """SpikingJelly's, told that weights are no spikes.

    By itself it takes all that holds only zeros and ones for spikes, and
    then counts pairs of them. The codes of a small layer can be like that;
    and so can a sparse k^T v, hence :func:`_product_operations`.
    """
    counter = SynOpCounter()
    for operation, place in ((aten.convolution.default, 1),
                             (aten.mm.default, 1), (aten.bmm.default, 1),
                             (aten.addmm.default, 2)):

        def rule(args, kwargs, out, place=place,
                 known=counter.rules[operation]):
            args = list(args)
            args[place] = torch.full_like(args[place], 2)  # neither 0 nor 1
            return known(args, kwargs, out)

        counter.rules[operation] = rule
    return counter


def _product_operations(product: SlotProduct, q: Tensor, k: Tensor,
                        v: Tensor) -> int:
    """Accumulations of q (k^T v), from slots as the product reads them."""
    k, v = (
        split_slots(x, len(weights)).double().sum(0).unflatten(
            1, (product.num_heads, -1)).sum(2)
        for x, weights in zip((k, v), product.weights[1:])
    )  # spikes of a token and head, (T*B, heads, H, W)
    width = q.shape[1] // product.num_heads
    return int((k * v).sum()) + int(q.double().sum()) * width


def _published_operations(
    model: nn.Module, rows: dict[str, LayerEnergy]
) -> dict[str, tuple[float, float, float]]:
    """AC, MAC, and MAC of the ANN, where papers count in another way."""
    operations: dict[str, tuple[float, float, float]] = {}
    for name, module in model.named_modules():
        if isinstance(module, RepConv):
            first, *inner = (rows[_join(name, x)] for x in (
                'pointwise1', 'depthwise', 'pointwise2'))
            if first.reads == 'spike' and inner[0].reads == 'real':
                # C x C weights become C x C x 3 x 3, over the same spikes.
                operations[first.name] = (9 * first.synaptic_operations, 0,
                                          9 * first.ann_macs)
                operations.update((x.name, (0, 0, 0)) for x in inner)
        elif isinstance(module, SepConv):
            spikes, last = (
                rows[_join(name, x)] for x in ('depthwise', 'project'))
            if spikes.reads == 'spike' and last.reads == 'real':
                mean_count = spikes.firing_rate * spikes.levels
                operations[last.name] = (last.macs * mean_count, 0,
                                         last.ann_macs)
    return operations


def _finish(row: LayerEnergy, published: tuple[float, float, float] | None,
            images: int, costs: EnergyCosts) -> None:
    """From sums over all images to means, from operations to energy."""
    dense = row.macs if row.reads == 'real' else 0
    published = published or (row.synaptic_operations, dense, row.ann_macs)
    ac, mac, ann_mac = (count / images for count in published)
    row.macs /= images
    row.ann_macs /= images
    row.synaptic_operations /= images
    row.energy = dict(
        ann=costs.millijoule(0, row.ann_macs),
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
