"""Operations and energy: by hand, by brute force, by another counter."""

import csv
import io
import json

import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS
from rich.console import Console
from shared import ARCH
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mmqsdt import QSDTransformer
from mmqsdt.deploy import describe, to_integer, to_spikes
from mmqsdt.deploy.fold import FoldedConv
from mmqsdt.deploy.spikes import SlotProduct
from mmqsdt.layers import (
    IELIF,
    ConvUnit,
    LSQLinear,
    SepConv,
    SpikeAttention,
)
from mmqsdt.measure.energy import (
    OTHER,
    EnergyCosts,
    EnergyReport,
    measure_energy,
)
from mmqsdt.measure.energy_plot import plot_energy
from mmqsdt.measure.energy_table import layer_table, total_table
from mmqsdt.measure.firing import recorded_firing_rates
from mmqsdt.models.spike_units import SpikeLinear

IE_LIF = dict(type='mmqsdt.IELIF')
# Energies are float sums of a few hundred terms, added in another order.
ROUNDING = dict(rel=1e-12)


def as_if_trained(model: nn.Module) -> nn.Module:
    """Norms and layer scales with which neurons fire everywhere."""
    for name, parameter in model.named_parameters():
        if 'layer_scale' in name:
            nn.init.uniform_(parameter, .1, 1.)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 1., 3.)
            nn.init.normal_(module.bias, std=.3)
    return model.eval()


def backbone(**kwargs) -> QSDTransformer:
    return as_if_trained(QSDTransformer(ARCH, **kwargs))


def by_name(report: EnergyReport) -> dict:
    return {layer.name: layer for layer in report.layers}


# By hand.


class TwoLayers(nn.Module):
    """A 1x1 stem that passes the image on, then a conv that reads spikes."""

    def __init__(self, bits: int | None = 4) -> None:
        super().__init__()
        self.stem = ConvUnit(1, 2, 1, None, bits)
        self.conv = ConvUnit(2, 3, 3, IE_LIF, bits)
        with torch.no_grad():
            if bits is not None:
                self.stem.conv.step_size.fill_(.25)
            self.stem.conv.weight.copy_(
                torch.tensor([1., 0.]).view(2, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.stem(x))


# Potentials in units of the threshold: the counts of the first channel; the
# second channel is silent.
COUNTS = torch.tensor([[0., 1., 2.], [3., 4., 0.], [0., 0., 1.]])
STEM_MAC = 9 * 2
# A pixel meets the kernel at 4 places from a corner, 6 from an edge, 9 from
# the middle; with padding the kernel's 9 taps count at each of 9 places.
CONV_MAC = (4 * 4 + 4 * 6 + 9) * 2 * 3
PADDED_MAC = 9 * 9 * 2 * 3
# Mean count: 11 spikes of 18 elements.
FORMULA_AC = CONV_MAC * 11 / 18
# A spike meets 3 filters at 4 places from a corner, 6 from an edge, 9 from
# the middle; in the order of COUNTS, zeros left out.
THERMOMETER_AC = 3 * (6 * 1 + 4 * 2 + 6 * 3 + 9 * 4 + 4 * 1)
BITWISE_AC = 3 * (6 * 1 + 4 * 1 + 6 * 2 + 9 * 1 + 4 * 1)


def test_two_layers_by_hand():
    image = (COUNTS * .25).view(1, 1, 3, 3)
    report = measure_energy(TwoLayers().eval(), [image])
    stem, conv = report.layers
    assert (stem.name, stem.part, stem.reads) == ('stem.conv', 'stem', 'real')
    assert (conv.name, conv.part, conv.reads) == ('conv.conv', 'conv', 'spike')
    assert stem.firing_rate is None
    assert conv.firing_rate == pytest.approx(11 / 18 / 4, **ROUNDING)
    assert conv.share_nonzero == 5 / 18
    assert (stem.macs, stem.synaptic_operations) == (STEM_MAC, 0)
    assert (conv.macs, CONV_MAC) == (CONV_MAC, 294)
    assert (stem.padded_macs, conv.padded_macs) == (STEM_MAC, PADDED_MAC)
    assert conv.synaptic_operations == pytest.approx(FORMULA_AC, **ROUNDING)
    assert (THERMOMETER_AC, BITWISE_AC) == (216, 105)
    assert stem.counted == dict.fromkeys(
        ('thermometer', 'bitwise'), dict(ac=0, mac=STEM_MAC))
    assert conv.counted == dict(
        thermometer=dict(ac=216, mac=0), bitwise=dict(ac=105, mac=0))

    stem_mj = 4.6 * STEM_MAC * 1e-9
    expected = dict(
        ann=stem_mj + 4.6 * 294 * 1e-9,
        ann_as_published=stem_mj + 4.6 * 486 * 1e-9,
        formula=stem_mj + .9 * FORMULA_AC * 1e-9,
        as_published=stem_mj + .9 * 297 * 1e-9,
        counted_thermometer=stem_mj + .9 * 216 * 1e-9,
        counted_bitwise=stem_mj + .9 * 105 * 1e-9,
        bits_thermometer=(stem_mj + .9 * 216 * 1e-9) * 4 / 32,
        bits_bitwise=(stem_mj + .9 * 105 * 1e-9) * 4 / 32)
    # On integers: an addition of 0.1 pJ, a product of 0.2 at 8 bits, of a
    # quarter of that at 4 bits, of four times that for 4 by 32 bits.
    assert EnergyCosts().integer_mac(4, 32) == pytest.approx(.5)
    expected |= dict(
        ann_int8=(18 + 294) * .3e-9,
        ann_int4=(18 + 294) * .15e-9,
        integer_thermometer=(18 * .5 + 216 * .1) * 1e-9,
        integer_bitwise=(18 * .5 + 105 * .1) * 1e-9)
    # With memory: weights once; 9 real values and 18 counts, in 4 or 3
    # slots, written and read.
    bit = 100 / 64 * 1e-9
    weights = 2 + 2 * 3 * 9
    expected |= dict(
        ann_memory=expected['ann'] + bit * 32 * (weights + 2 * 27),
        ann_int8_memory=expected['ann_int8'] + bit * 8 * (weights + 2 * 27),
        ann_int4_memory=expected['ann_int4'] + bit * 4 * (weights + 2 * 27),
        memory_thermometer=expected['integer_thermometer'] + bit * (
            4 * weights + 2 * (9 * 32 + 18 * 4)),
        memory_bitwise=expected['integer_bitwise'] + bit * (
            4 * weights + 2 * (9 * 32 + 18 * 3)))
    totals = report.totals()
    assert report.measures == list(expected)
    assert totals['total'] == pytest.approx(expected, **ROUNDING)
    assert totals['stem']['formula'] == pytest.approx(stem_mj, **ROUNDING)
    assert report.ratios()['formula'] == pytest.approx(
        4.6 * 312 / (4.6 * 18 + .9 * FORMULA_AC), **ROUNDING)
    for bits, measure in ((32, 'ann_memory'), (8, 'ann_int8_memory'),
                          (4, 'ann_int4_memory'), (None, 'ann_int4_memory')):
        assert report.ratios(bits)['memory_bitwise'] == pytest.approx(
            expected[measure] / expected['memory_bitwise'], **ROUNDING)
    assert 'formula' not in report.ratios(8)


def test_other_costs_and_float_weights():
    image = (COUNTS * .25).view(1, 1, 3, 3)
    report = measure_energy(
        TwoLayers(bits=None).eval(), [image], EnergyCosts(2., .5))
    total = report.totals()['total']
    assert total['counted_bitwise'] == pytest.approx(
        (2 * 18 + .5 * 105) * 1e-9, **ROUNDING)
    assert total['bits_bitwise'] == total['counted_bitwise']  # 32 of 32 bits


def test_real_values_cost_a_mac_even_if_they_are_all_zero():
    stem, conv = measure_energy(TwoLayers().eval(),
                                [torch.zeros(1, 1, 3, 3)]).layers
    assert stem.counted['thermometer'] == dict(ac=0, mac=STEM_MAC)
    assert conv.counted['thermometer'] == dict(ac=0, mac=0)


@pytest.mark.parametrize('levels', [1, 3, 7, 8])
def test_slots_of_other_neurons_by_hand(levels):
    model = ConvUnit(1, 5, 1, dict(IE_LIF, levels=levels)).eval()
    counts = range(levels + 1)
    layer, = measure_energy(
        model, [.25 * torch.tensor([[[list(counts)]]], dtype=torch.float)]
    ).layers
    assert layer.levels == levels and layer.firing_rate == .5
    assert layer.share_nonzero == pytest.approx(levels / (levels + 1))
    assert layer.synaptic_operations == pytest.approx(5 * sum(counts))
    assert layer.counted['thermometer']['ac'] == 5 * sum(counts)
    assert layer.counted['bitwise']['ac'] == 5 * sum(
        c.bit_count() for c in counts)


@pytest.mark.parametrize('unit, shape', [
    (lambda: ConvUnit(2, 3, 3, IE_LIF, 2), (1, 2, 5, 5)),
    (lambda: SpikeLinear(8, 3, IE_LIF, 2), (4, 8)),
    (lambda: SpikeLinear(8, 3, IE_LIF, 2), (2, 4, 8)),
], ids=['conv', 'linear', 'linear over tokens'])
def test_weights_of_zeros_and_ones_are_no_spikes(unit, shape):
    model = unit().eval()
    layer = model.conv if hasattr(model, 'conv') else model.fc
    with torch.no_grad():
        layer.weight.abs_()
    assert layer.integer_weight().unique().tolist() == [0, 1]
    x = torch.rand(shape)
    counts, ones = model.neuron(x) * 4, torch.ones_like(layer.weight)
    expected = F.conv2d(counts, ones, padding=1) if len(shape) == 4 else \
        counts @ ones.t()
    counted = measure_energy(model, [x]).layers[0].counted['thermometer']
    assert counted['ac'] == expected.sum() / len(x) > 0


def test_time_steps_add_up():
    model = nn.Sequential(
        ConvUnit(1, 2, 1, dict(IE_LIF, leak=0.), time_steps=2)).eval()
    # Time-major: an image's two steps, with 4 + 1 + 0 + 0 and 0 spikes.
    steps = torch.tensor([1., .25, 0., 0.]).view(1, 1, 2, 2)
    layer, = measure_energy(
        model, [torch.cat([steps, torch.zeros_like(steps)])]).layers
    # Two steps came as a batch of two: per step, half of all.
    assert layer.macs == 4 * 2
    assert layer.counted['thermometer']['ac'] == 5 * 2 / 2
    assert layer.synaptic_operations == pytest.approx(8 * 5 / 8)


def test_the_mean_over_images():
    model = as_if_trained(nn.Sequential(SepConv(4, IE_LIF)))
    images = [torch.randn(1, 4, 6, 6) for _ in range(3)]
    apart = [measure_energy(model, [x]).totals()['total'] for x in images]
    together = measure_energy(model, [torch.cat(images[:2]), images[2]])
    assert together.images == 3
    for measure, energy in together.totals()['total'].items():
        assert energy == pytest.approx(
            sum(total[measure] for total in apart) / 3, **ROUNDING)


# As published: RepConv merged, SepConv's last conv over spikes.


def test_as_published_merges_rep_conv():
    model = as_if_trained(SpikeAttention(16, 2))
    report = measure_energy(model, [torch.randn(2, 16, 4, 4)])
    layers = by_name(report)
    for conv in ('q_conv', 'k_conv', 'v_conv', 'proj_conv'):
        first = layers[f'{conv}.pointwise1']
        spikes = 4 * first.firing_rate  # mean count, D = 4
        assert first.macs == 16 * 16 * 16
        assert spikes > 0
        assert first.energy['formula'] == pytest.approx(
            .9e-9 * 16**3 * spikes)
        assert first.energy['as_published'] == pytest.approx(
            .9e-9 * 16**3 * 9 * spikes)
        assert first.energy['ann_as_published'] == pytest.approx(
            4.6e-9 * 16**3 * 9)
        for name in ('depthwise', 'pointwise2'):
            energy = layers[f'{conv}.{name}'].energy
            assert energy['formula'] == energy['ann'] > 0
            assert energy['as_published'] == energy['ann_as_published'] == 0
    product = layers['product'].energy
    assert product['as_published'] == product['formula'] > 0


def test_as_published_reads_spikes_in_sep_conv():
    model = as_if_trained(SepConv(8, IE_LIF))
    layers = by_name(measure_energy(model, [torch.randn(2, 8, 5, 5)]))
    spikes = 4 * layers['depthwise'].firing_rate
    last = layers['project']
    assert last.macs == 25 * 16 * 8
    assert last.energy['formula'] == pytest.approx(4.6e-9 * 25 * 16 * 8)
    assert last.energy['as_published'] == pytest.approx(
        .9e-9 * 25 * 16 * 8 * spikes)
    assert last.energy['ann_as_published'] == last.energy['ann']


# Networks of one's own.


class Recipe(nn.Module):
    """Spikes halved, pooled and cut on their way into a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvModule(
            4, 4, 1, conv_cfg=dict(type='mmqsdt.LSQConv2d', bits=4),
            act_cfg=IE_LIF)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = F.max_pool2d(x / 2, 2)[:, :2]
        return self.fc(x.flatten(1))


def test_layers_of_a_recipe_cost_what_they_read():
    model, x = Recipe().eval(), torch.randn(3, 4, 4, 4)
    with torch.no_grad():
        counts = F.max_pool2d(model.conv(x) * 4, 2)[:, :2]
    layers = by_name(measure_energy(model, [x]))
    assert (layers['conv.conv'].reads, layers['conv.conv'].bits) == (
        'real', 4)
    fc = layers['fc']
    assert (fc.reads, fc.bits, fc.source) == ('spike', 32, 'conv.activate')
    assert fc.firing_rate == pytest.approx(counts.mean().item() / 4)
    assert fc.synaptic_operations == pytest.approx(
        3 * counts.sum().item() / 3)
    assert fc.counted['thermometer']['ac'] == 3 * counts.sum().item() / 3
    ones = sum((counts // w % 2).sum().item() for w in (1, 2, 4))
    assert fc.counted['bitwise']['ac'] == 3 * ones / 3 > 0


class Attention(nn.Module):
    """A user's own, keys first or queries first, or element by element."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.q, self.k, self.v = (IELIF(n, amplitude=.5) for n in (4, 3, 4))
        self.kind, self.fc = kind, LSQLinear(4, 4)
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q(x), self.k(x.flip(1)), self.v(-x)
        if self.kind == 'keys':
            y = q @ (k.transpose(1, 2) @ v) * .25
        elif self.kind == 'queries':
            y = q @ k.transpose(1, 2) * .25 @ v
        elif self.kind == 'einsum':
            y = torch.einsum('bnd,bnc->bdc', k, v)
            y = torch.einsum('bnd,bdc->bnc', q, y)
        elif self.kind == 'one':
            y = q.transpose(1, 2) @ k
        elif self.kind == 'weights':
            y = F.linear(q, self.weight, self.bias)
        else:
            y = q * k
        return self.fc(self.q(y)) + y


def popcount(x: torch.Tensor, encoding: str) -> torch.Tensor:
    counts = (x / .5).round()
    return counts if encoding == 'thermometer' else sum(
        counts // w % 2 for w in (1, 2, 4))


@pytest.mark.parametrize('encoding', ['thermometer', 'bitwise'])
@pytest.mark.parametrize('kind', ['keys', 'queries', 'einsum', 'one',
                                  'weights', 'elements'])
def test_products_of_ones_own_by_brute_force(kind, encoding):
    model, x = Attention(kind).eval(), torch.randn(2, 6, 4)
    name, = {d.name for d in describe(model, x)} - {'fc'}
    layers = by_name(measure_energy(model, [x]))
    row = layers[name]
    tensors = model.q(x), model.k(x.flip(1)), model.v(-x)
    q, k, v = (popcount(y, encoding) for y in tensors)
    mean = [popcount(y, 'thermometer').mean().item() for y in tensors]
    pairs = 2 * 6 * 4 * 4  # images, tokens, widths: of one product
    keys = ((k.sum(2) * v.sum(2)).sum() + 4 * q.sum()).item()
    queries = (q.sum(1) * k.sum(1)).sum().item()
    macs, formula, counted, kind_of = {
        'keys': (2 * pairs, pairs * (mean[1] * mean[2] + mean[0]), keys,
                 'q (k^T v)'),
        # Tokens times tokens; each spike of v then meets all tokens.
        'queries': (2 * pairs * 6 / 4, pairs * 6 / 4 * (
            mean[0] * mean[1] + mean[2]), queries + 6 * v.sum().item(),
            'q (k^T v)'),
        'einsum': (2 * pairs, pairs * (mean[1] * mean[2] + mean[0]), keys,
                   'q (k^T v)'),
        'one': (pairs, pairs * mean[0] * mean[1],
                (q.sum(2) * k.sum(2)).sum().item(), 'matmul of counts'),
        'weights': (pairs, pairs * mean[0], 4 * q.sum().item(),
                    'linear of spikes'),
        'elements': (48, 48 * mean[0] * mean[1], (q * k).sum().item(),
                     'mul of counts'),
    }[kind]
    assert (row.kind, row.operation, row.bits) == (kind_of, 'AC', None)
    assert row.macs == macs / 2
    assert row.synaptic_operations == pytest.approx(formula / 2)
    assert row.counted[encoding]['ac'] == counted / 2 > 0
    assert OTHER not in layers  # nothing is left uncounted


# By brute force: every spike times the weights it meets.


@pytest.mark.parametrize('encoding', ['thermometer', 'bitwise'])
def test_counted_operations_are_spikes_times_fan_out(encoding):
    model = backbone()
    x = torch.randn(1, 3, 32, 32)
    report = by_name(measure_energy(model, [x]))
    spikes = to_spikes(model, encoding)
    expected = {}

    def conv(name):

        def hook(module, args, output):
            assert set(args[0].unique().tolist()) <= {0., 1.}
            expected[name] = F.conv2d(
                args[0].double(), torch.ones_like(module.weight.double()),
                None, module.stride, module.padding, module.dilation,
                module.groups).sum().item()

        return hook

    def product(name):

        def hook(module, args, output):
            q, k, v = (y.unflatten(1, (2, -1)) for y in args)  # two heads
            # Pairs of spikes of k and v at the same token and head; the
            # slots of a token follow one another in the batch of one.
            k, v = k.sum((0, 2)), v.sum((0, 2))
            expected[name] = ((k * v).sum() + q.sum() * 8).item()

        return hook

    for name, module in spikes.named_modules():
        if isinstance(module, FoldedConv) and module.levels is not None:
            module.register_forward_hook(conv(name))
        elif isinstance(module, SlotProduct):
            module.register_forward_hook(product(name))
    spikes(x)
    counted = {
        name: layer.counted[encoding]['ac']
        for name, layer in report.items() if layer.reads == 'spike'
    }
    assert counted == expected
    assert min(counted.values()) > 0


def test_synaptic_operations_of_attention_by_brute_force():
    model = as_if_trained(SpikeAttention(16, 2))
    x = torch.randn(1, 16, 4, 4)
    counts = {}
    for name in 'qkv':
        neuron = getattr(model, f'{name}_neuron')
        neuron.register_forward_hook(
            lambda m, args, out, name=name: counts.update(
                {name: (out / m.amplitude).mean().item()}))
    product = by_name(measure_energy(model, [x]))['product']
    # Two products of 2 heads, 8 x 8 channels, 16 tokens.
    assert product.macs == 2 * (2 * 8 * 8 * 16)
    assert product.synaptic_operations == pytest.approx(
        2048 * (counts['k'] * counts['v'] + counts['q']))
    assert product.firing_rate == pytest.approx(
        sum(counts.values()) / 3 / 4)


def test_every_spike_of_q_meets_all_of_a_sparse_k_v():
    """Zeros in k^T v count like other weights, in a batch or alone."""
    model = as_if_trained(SpikeAttention(16, 2))
    nn.init.constant_(model.v_norm.bias, -99.)
    x = torch.randn(2, 16, 4, 4)
    with recorded_firing_rates(model) as rates:
        model(x)
    assert rates['v_neuron'].spikes == 0 < rates['q_neuron'].spikes
    product = by_name(measure_energy(model, [x]))['product']
    assert product.counted['thermometer']['ac'] == \
        rates['q_neuron'].spikes * 8 / 2  # channels of a head; images


# The ANN counterpart, by another count on another model.


@pytest.mark.parametrize('task', ['backbone', 'cls', 'seg'])
def test_ann_counterpart_by_pytorchs_count(task):

    def build(**unit) -> nn.Module:
        trunk = dict(
            type='mmqsdt.QSDTransformer',
            arch=ARCH,
            out_indices=(0, 1, 2, 4) if task == 'seg' else (4, ),
            **unit)
        if task == 'backbone':
            return MODELS.build(trunk).eval()
        if task == 'cls':
            pytest.importorskip('mmpretrain.models')
            return MODELS.build(
                dict(
                    type='mmpretrain.ImageClassifier',
                    backbone=trunk,
                    head=dict(
                        type='mmqsdt.SpikeLinearClsHead',
                        num_classes=10,
                        in_channels=16,
                        **unit))).eval()
        pytest.importorskip('mmseg.models')
        return MODELS.build(
            dict(
                type='mmseg.EncoderDecoder',
                backbone=trunk,
                neck=dict(
                    type='mmseg.FPN',
                    in_channels=[4, 8, 16, 16],
                    out_channels=16,
                    num_outs=4),
                decode_head=dict(
                    type='mmqsdt.SpikeFPNHead',
                    in_channels=[16] * 4,
                    in_index=[0, 1, 2, 3],
                    feature_strides=[2, 4, 8, 16],
                    channels=16,
                    num_classes=3,
                    norm_cfg=dict(type='BN'),
                    **unit))).eval()

    images = torch.randn(2, 3, 32, 32)
    ann = build(weight_bits=None, neuron=dict(type='ReLU'))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ann(images)
    model = build(weight_bits=4, neuron=IE_LIF)
    report = measure_energy(model, [images])
    macs = sum(layer.macs for layer in report.layers)
    # PyTorch's counts products with padding; a MAC is two; 2 images.
    assert macs < sum(layer.padded_macs for layer in report.layers) == \
        counter.get_total_flops() / 2 / 2
    assert report.totals()['total']['ann'] == pytest.approx(
        4.6e-9 * macs, **ROUNDING)
    parts = dict(
        backbone={'stages'},
        cls={'backbone', 'head'},
        seg={'backbone', 'neck', 'decode_head'})
    assert set(report.totals()) == {*parts[task], 'total'}


def test_the_ann_counterpart_sees_a_picture_once():
    """And each frame of a sequence."""
    picture, frames = torch.randn(1, 3, 32, 32), torch.randn(1, 2, 3, 32, 32)
    trunk = backbone(time_steps=2)
    once = measure_energy(backbone(), [picture]).totals()['total']
    for x, times in ((picture, 1), (frames, 2)):
        report = measure_energy(trunk, [x])
        total = report.totals()['total']
        for measure in ('ann', 'ann_as_published'):
            assert total[measure] == pytest.approx(
                times * once[measure], **ROUNDING)
        for layer in report.layers:  # the spiking network has both steps
            assert layer.macs * times == 2 * layer.ann_macs
            assert layer.reads == 'spike' or layer.energy[
                'formula'] == pytest.approx(4.6e-9 * layer.macs, **ROUNDING)


def test_every_layer_of_the_description_is_there_in_order():
    model = backbone(out_indices=(0, 4))
    report = measure_energy(model, [torch.randn(1, 3, 32, 32)])
    assert [(x.name, x.kind, x.reads, x.bits) for x in report.layers] == [
        (x.name, x.kind, x.reads, x.bits) for x in describe(model)]


def test_layers_that_did_not_run_are_left_out():
    model = TwoLayers().eval()
    model.auxiliary = ConvUnit(1, 1, 1, IE_LIF)
    report = measure_energy(model, [torch.rand(1, 1, 3, 3)])
    assert list(by_name(report)) == ['stem.conv', 'conv.conv']
    assert set(report.totals()) == {'stem', 'conv', 'total'}


class Shared(nn.Module):
    """One unit under two names, run under both, and a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ConvUnit(2, 2, 1, IE_LIF)
        self.second = nn.Sequential(self.first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x)).flatten(2)
        return x @ x.transpose(1, 2)


def test_shared_layers_and_products_outside_layers():
    layer, other = measure_energy(Shared().eval(),
                                  [torch.rand(1, 2, 3, 3)]).layers
    assert layer.name == 'first.conv'
    assert layer.macs == 2 * 9 * 4
    assert layer.counted['thermometer']['ac'] > 0
    assert (other.name, other.macs) == (OTHER, 2 * 2 * 9)
    assert other.counted['bitwise'] == dict(ac=0, mac=36)


# What comes out.


@pytest.fixture(scope='module')
def report() -> EnergyReport:
    torch.manual_seed(0)
    return measure_energy(backbone(), [torch.randn(2, 3, 32, 32)])


def test_totals_add_up(report):
    totals = report.totals()
    for measure in report.measures:
        energies = [layer.energy[measure] for layer in report.layers]
        assert min(energies) >= 0
        assert totals['total'][measure] == pytest.approx(
            sum(energies), **ROUNDING)
        assert totals['total'][measure] == pytest.approx(
            sum(totals[p][measure] for p in totals if p != 'total'),
            **ROUNDING)
    assert totals['total']['counted_bitwise'] <= \
        totals['total']['counted_thermometer'] <= totals['total']['ann']


def test_json_is_the_report(report, tmp_path):
    report.write_json(tmp_path / 'energy.json')
    content = json.loads((tmp_path / 'energy.json').read_text())
    assert content['images'] == 2
    assert content['costs'] == vars(EnergyCosts())
    assert content['costs']['source'].startswith('published: Horowitz')
    assert content['totals_millijoule'] == report.totals()
    assert content['ann_over_model'] == report.ratios()
    assert content['ann_over_model_by_bits'] == {
        str(bits): report.ratios(bits) for bits in (32, 8, 4)}
    assert content['quote'] in report.ratios(8)
    assert content['layers'] == [vars(layer) for layer in report.layers]


def test_csv_is_the_report(report, tmp_path):
    report.write_csv(tmp_path / 'energy.csv')
    with open(tmp_path / 'energy.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.layers)
    for row, layer in zip(rows, report.layers):
        assert row['name'] == layer.name and row['reads'] == layer.reads
        assert float(row['macs']) == layer.macs
        assert row['firing_rate'] == (
            '' if layer.firing_rate is None else repr(layer.firing_rate))
        for encoding, counts in layer.counted.items():
            assert float(row[f'ac_{encoding}']) == counts['ac']
            assert float(row[f'mac_{encoding}']) == counts['mac']
        for measure, energy in layer.energy.items():
            assert float(row[f'millijoule_{measure}']) == energy


def test_tables_show_every_layer_and_every_measure(report):
    console = Console(width=250, file=io.StringIO())
    console.print(layer_table(report))
    console.print(total_table(report))
    text = console.file.getvalue()
    assert all(text.count(f' {x.name} ') == 1 for x in report.layers)
    for energy in report.totals()['total'].values():
        assert f'{energy:.4g}' in text
    assert all(f'{ratio:.2f}' in text for ratio in report.ratios().values())


def test_the_chart_shows_the_totals(report, tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, *args, **kwargs:
        (figures.append(self), save(self, *args, **kwargs)))
    plot_energy(report, tmp_path / 'new/energy.png')
    picture = matplotlib.image.imread(tmp_path / 'new/energy.png')
    assert picture.shape[0] > 500 and picture.std() > 0
    totals, groups = figures[0].axes
    assert [bar.get_width() for bar in totals.patches] == list(
        report.totals()['total'].values())
    # Microjoules of all groups: the counted energy of the whole.
    assert sum(bar.get_width() for bar in groups.patches) == pytest.approx(
        1e3 * report.totals()['total']['counted_thermometer'])
    assert len(groups.get_yticks()) <= 28


# What is refused, and what stays as it was.


def test_the_model_stays_as_it_was():
    model = backbone().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    measure_energy(model, [torch.randn(1, 3, 32, 32)])
    assert model.training
    after = model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert not any(m._forward_hooks for m in model.modules())


def test_refusals():
    images = [torch.randn(1, 3, 32, 32)]
    with pytest.raises(ValueError, match='no image'):
        measure_energy(backbone(), [])
    with pytest.raises(ValueError, match='not a spiking model'):
        measure_energy(backbone(neuron=dict(type='ReLU')), images)
    with pytest.raises(ValueError, match='integer or spike form already'):
        measure_energy(to_integer(backbone()), images)
    with pytest.raises(ValueError, match='positive'):
        EnergyCosts(mac_pj=0)
    with pytest.raises(ValueError, match='positive'):
        EnergyCosts(ac_pj=-.9)
