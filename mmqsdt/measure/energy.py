r"""Operations and energy of a spiking model, layer by layer.

Every figure is for one image, over all its time steps. MAC:
multiply-accumulate; AC: accumulate. Only convolutions and matrix products
count, not norms, neurons, sums of slots or residual sums. No product with
padding counts, neither of the model nor of the ANN it is compared with. A
layer that reads real values (the stem, stock layers, and in the published
architecture the inner convs of RepConv and the last 1x1 of SepConv) always
counts as MAC. Measures, on 32-bit floats:

- ann: the ANN counterpart, the same graph with every product a MAC. It has
  no time steps: it sees a picture once, and each frame of a sequence.
- formula: the field's formula. A layer that reads spikes costs
  :math:`E_{AC} \cdot MACs \cdot \bar C` with the mean spike count
  :math:`\bar C` of its neuron, and q (k^T v) costs
  :math:`E_{AC} \cdot MACs / 2 \cdot (\bar C_k \bar C_v + \bar C_q)`, as if k
  and v fired independently. Real values: :math:`E_{MAC} \cdot MACs`.
- as_published: the same formula as papers use it, with the MACs that they
  count, padding included. Only the stem and stock layers read real values:
  RepConv is taken as merged into one 3x3 conv over spikes, and the last 1x1
  of SepConv as reading the spikes before it. Its ANN counterpart,
  ann_as_published, has the merged convs and the padding too.
- counted_<encoding>: accumulations counted one by one on the spike form, of
  convs and linear layers by SpikingJelly's ``SynOpCounter``: one for every
  spike and every weight it meets, zero weights too; in k^T v one for every
  pair of spikes that meet, in q (k^T v) one for every spike of q and every
  channel of v.
- bits_<encoding>: those, each in proportion to its width,
  :math:`E_{AC} \cdot AC \cdot b_w / 32 + E_{MAC} \cdot MAC \cdot b_w b_a /
  32^2`, with binary spikes, real-valued activations of :math:`b_a = 32`, and
  q (k^T v), which has no weights, at full width.

On integers, with :math:`E_{MAC}(b_w, b_a) = E_{mul8} \cdot b_w b_a / 64 +
E_{add32}`:

- ann_int8, ann_int4: the ANN counterpart with weights and activations of 8
  or 4 bits, :math:`E_{MAC}(b, b) \cdot MACs`.
- integer_<encoding>: what was counted, :math:`E_{add32} \cdot AC +
  E_{MAC}(b_w, 32) \cdot MAC`.

With memory:

- memory_<encoding>, ann_int8_memory, ann_int4_memory: the same and
  :math:`E_w \cdot b_w \cdot weights + 2 E_a \cdot b \cdot inputs + 2 E_m
  \cdot 32 \cdot membranes`. Every weight is read once an image. What a
  layer reads was written once and is read once: a count in its D or
  ceil(log2(D + 1)) slots, a real value in 32 bits, an activation of the ANN
  in 8 or 4. Membrane potentials travel from one time step to the next; with
  one time step there are none. Sums stay in registers on both sides.
- ann_memory: ann and the same, of 32 bits.

With ``skip_zeros`` the integer measures, with memory and without, leave out
products in which a code or an activation is zero, of the model and of the
counterparts; see ``zeros``.

Sources: those of the constants stand in ``costs``; the formula as in
Spike-driven Transformer V2 (arXiv 2404.03663); b_w b_a as the effort of a
multiplication, PokeBNN (arXiv 2112.00133); b_w / 32 for an integer adder as
in Horowitz.
"""

import operator
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict
from functools import reduce
from math import prod

from torch import nn

from ..deploy.describe import LayerDescription, describe_program
from ..deploy.forms import check_convertible
from ..deploy.obstacles import OWN_FORWARD
from ..deploy.program import Program
from ..deploy.spikes import ENCODINGS, slot_weights
from ..layers import SpikingNeuron
from ..layers.lsq import code_width
from ..models.backbones.qsd_transformer import QSDTransformer
from .costs import EnergyCosts
from .counting import (
    by_module,
    count_slots,
    join,
    published_operations,
    run,
)
from .energy_report import ANN_BITS, EnergyReport, LayerEnergy
from .firing import FiringRate
from .meter import Meter
from .zeros import NonzeroProducts

OTHER = 'other products'


def measure_energy(model: nn.Module,
                   batches: Iterable,
                   costs: EnergyCosts | None = None,
                   skip_zeros: bool = False) -> EnergyReport:
    """Run a model on data and measure operations and energy of every layer.

    Args:
        model (nn.Module): In float form. A whole model of MMPretrain,
            MMDetection or MMSegmentation, or any part of one. Measured in
            eval mode, on a copy.
        batches (Iterable): Batches of the model's data loader (dicts), given
            to its ``test_step``; or tensors, given to its forward.
        costs (EnergyCosts, optional): Defaults to published ones.
        skip_zeros (bool): Leave products with a zero code or activation out
            of the integer measures, on both sides. Defaults to False.

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
    with meter.padded, meter.flops:
        run(model, batches, meter.call)
    program = Program(model, meter)
    rows = {d.name: _new_row(d) for d in describe_program(program)}
    rows[OTHER] = LayerEnergy(OTHER, 'other', '', 'real', None, 32, 'MAC')
    _fill_in(rows, meter, program, _repeated_pictures(model, batches[0]))
    for encoding in ENCODINGS:
        count_slots(model, batches, rows, encoding, program)
    if skip_zeros:
        _count_nonzero(model, batches, rows, program)
    published = published_operations(model, rows)
    for name, row in rows.items():
        _finish(row, published[name], images, costs)
    ran = [row for row in rows.values() if row.macs]
    neurons = {program.paths[n]: rate for n, rate in meter.neurons.items()}
    return EnergyReport(ran, images, costs, neurons, skip_zeros)


def _new_row(layer: LayerDescription) -> LayerEnergy:
    return LayerEnergy(part=layer.name.split('.')[0], **asdict(layer))


def _number_of_images(batch) -> int:
    return len(batch['inputs'] if isinstance(batch, Mapping) else batch)


def _fill_in(rows: dict[str, LayerEnergy], meter: Meter, program: Program,
             repeated: dict[str, int]) -> None:
    """Fill in what is read, fired and multiplied, by the field's formula."""
    macs, padded = (by_module(counter.get_flop_counts(), meter.model)
                    for counter in (meter.flops, meter.padded))
    other, other_padded = (counter.get_total_flops() / 2
                           for counter in (meter.flops, meter.padded))
    carriers: dict[SpikingNeuron, LayerEnergy] = {}
    for name, entry in program.layers.items():
        row = rows[name]
        row.macs = macs.get(name, 0) / 2
        row.padded_macs = padded.get(name, 0) / 2
        other -= row.macs
        other_padded -= row.padded_macs
        row.weights = entry.layer.weight.numel()
        row.inputs = meter.inputs[entry.layer]
        if entry.spikes is not None:
            rate = meter.layers[entry.layer]
            _set_rate(row, rate)
            row.synaptic_operations = row.macs * rate.mean_count
            for neuron in entry.spikes.neurons:
                carriers.setdefault(neuron, row)
    for name, product in program.products.items():
        row, read = rows[name], []
        for counts, rates in meter.parts[product]:
            row.macs += sum(counts)
            row.synaptic_operations += sum(counts) * prod(
                rate.mean_count for rate in rates)
            read += rates
        row.padded_macs = row.macs
        row.inputs = sum(rate.elements for rate in read)
        if not product.elementwise:  # PyTorch's counter knows none
            other -= row.macs
            other_padded -= row.macs
        _set_rate(row, reduce(operator.add, read))
        for spikes in product.spikes:
            for neuron in spikes.neurons:
                carriers.setdefault(neuron, row)
    for neuron, row in carriers.items():
        steps = neuron.time_steps
        row.membrane += meter.neurons[neuron].elements * (steps - 1) / steps
    rows[OTHER].macs, rows[OTHER].padded_macs = other, other_padded
    for row in rows.values():
        row.ann_macs, row.ann_inputs = row.macs, row.inputs
    for path, steps in repeated.items():
        for name, row in rows.items():
            if name.startswith(join(path, '')):
                row.ann_macs = row.macs / steps
                row.ann_inputs = row.inputs / steps


def _count_nonzero(model: nn.Module, batches: list,
                   rows: dict[str, LayerEnergy], program: Program) -> None:
    """Fill in the products without a zero.

    A layer with a forward of its own, whose products nobody knows, has none.
    """
    counter = NonzeroProducts(model, {
        entry.layer: entry.spikes for entry in program.layers.values()
        if entry.obstacle != OWN_FORWARD})
    run(model, batches, counter.call)
    names = dict(program.paths)
    names |= {product: name
              for name, product in counter.named_products().items()}
    for found, counts in counter.counts.items():
        row = rows[names[found]]
        if not row.macs:  # it ran on nothing, such as no region
            continue
        # The product of spikes has no zero weights: what was counted.
        row.nonzero = {e: row.counted[e]['ac'] for e in ENCODINGS} | counts
        row.nonzero['ann'] *= row.ann_macs / row.macs


def _repeated_pictures(model: nn.Module, batch) -> dict[str, int]:
    """Paths of backbones that see a picture T times -> T."""
    images = batch['inputs'] if isinstance(batch, Mapping) else batch
    return {
        name: module.time_steps
        for name, module in model.named_modules()
        if isinstance(module, QSDTransformer) and images[0].dim() == 3
    }


def _set_rate(row: LayerEnergy, rate: FiringRate) -> None:
    row.firing_rate, row.share_nonzero = rate.rate, rate.share_nonzero


def _finish(row: LayerEnergy, published: tuple[float, float, float],
            images: int, costs: EnergyCosts) -> None:
    """From sums over all images to means, from operations to energy."""
    ac, mac, ann_mac = (count / images for count in published)
    for name in ('macs', 'padded_macs', 'ann_macs', 'inputs', 'ann_inputs',
                 'membrane', 'synaptic_operations'):
        setattr(row, name, getattr(row, name) / images)
    for counts in (*row.counted.values(), row.nonzero):
        for kind in counts:
            counts[kind] /= images
    row.published = dict(ac=ac, mac=mac)
    dense = row.macs if row.reads == 'real' else 0
    row.energy = dict(
        ann=costs.millijoule(0, row.ann_macs),
        ann_as_published=costs.millijoule(0, ann_mac),
        formula=costs.millijoule(row.synaptic_operations, dense),
        as_published=costs.millijoule(ac, mac))
    width = code_width(row.bits)
    for encoding, counts in row.counted.items():
        row.energy[f'counted_{encoding}'] = costs.millijoule(
            counts['ac'], counts['mac'])
    for encoding, counts in row.counted.items():
        row.energy[f'bits_{encoding}'] = costs.millijoule(
            counts['ac'] * width / 32, counts['mac'] * width / 32)
    # On integers.
    ann = row.nonzero.get('ann', row.ann_macs)
    for bits in ANN_BITS:
        row.energy[f'ann_int{bits}'] = \
            ann * costs.integer_mac(bits, bits) * 1e-9
    for encoding, counts in row.counted.items():
        cost = costs.int32_add_pj if row.reads == 'spike' else \
            costs.integer_mac(width, 32)
        row.energy[f'integer_{encoding}'] = row.nonzero.get(
            encoding, counts['ac'] + counts['mac']) * cost * 1e-9
    # With memory.
    row.energy['ann_memory'] = row.energy['ann'] + _memory(
        row.weights * 32, row.ann_inputs * 32, 0, costs)
    for bits in ANN_BITS:
        row.energy[f'ann_int{bits}_memory'] = \
            row.energy[f'ann_int{bits}'] + _memory(
                row.weights * bits, row.ann_inputs * bits, 0, costs)
    for encoding in row.counted:
        slots = len(slot_weights(row.levels, encoding)) \
            if row.reads == 'spike' else 32
        row.energy[f'memory_{encoding}'] = \
            row.energy[f'integer_{encoding}'] + _memory(
                row.weights * width, row.inputs * slots, row.membrane * 32,
                costs)


def _memory(weight_bits: float, input_bits: float, membrane_bits: float,
            costs: EnergyCosts) -> float:
    """Of bits held, in mJ: weights are read, all else is written too."""
    return (costs.weight_bit_pj * weight_bits +
            2 * costs.activation_bit_pj * input_bits +
            2 * costs.membrane_bit_pj * membrane_bits) * 1e-9
