"""The fast form is the integer form, whatever kernels it runs on."""

from copy import deepcopy

import pytest
import torch
from networks import NETWORKS, SPIKING, as_if_trained
from torch import nn

from mmqsdt.deploy import compare_forms, describe, fast, to_form, to_integer
from mmqsdt.deploy.fast import FastAttention, FastRepConv, to_fast
from mmqsdt.deploy.fast_layers import (
    PIECE,
    FastConv2d,
    FastLinear,
    FastNeuron,
    FusedNeuron,
)
from mmqsdt.deploy.fold import FoldedConv, FoldedLayer
from mmqsdt.deploy.kernels import IntegerConv
from mmqsdt.deploy.operations import Spikes
from mmqsdt.deploy.program import WeightLayer
from mmqsdt.layers import (
    IELIF,
    ConvUnit,
    LSQConv2d,
    LSQLinear,
    RepConv,
    SepConv,
    SpikeAttention,
)

has_kernels = pytest.mark.skipif(
    fast.find_kernel_obstacle() is not None,
    reason=f'no integer kernels: {fast.find_kernel_obstacle()}')
IE_LIF = dict(type='mmqsdt.IELIF')
MANY = Spikes.of(IELIF(127))


def assert_equal_forms(model, inputs, traced=None):
    """Counts of the integer form but within rounding of a threshold."""
    plain, other = to_integer(model, traced), to_fast(model, traced)
    report = compare_forms(plain, other, inputs)
    assert report.elements > 1000
    if report.flips:  # each where it arises: later neurons would follow
        report = compare_forms(plain, other, inputs, isolate=True)
    for neuron in report.neurons:
        # Two regions of equal score can swap places in the heads of regions.
        if not neuron.name.startswith('roi_head.'):
            # Float32 rounding of sums of values near 1.
            assert neuron.flip_distance < 1e-5, str(report)
    if not report.flips:
        assert report.output_error < 1e-5, str(report)


@pytest.mark.parametrize('options', [
    dict(weight_bits=2), dict(weight_bits=4), dict(weight_bits=8),
    dict(weight_bits='ternary'), dict(weight_bits=1),
    dict(weight_bits=None), dict(time_steps=2), dict(inner_neurons=True),
    dict(inner_neurons=True, time_steps=2),
    dict(neuron=dict(type='mmqsdt.LIF')),
    dict(neuron=dict(IE_LIF, levels=1)),
    dict(neuron=dict(IE_LIF, levels=200)),
    dict(neuron=dict(IE_LIF, rounding='half_even', levels=3)),
    dict(neuron=dict(IE_LIF, threshold=.35, amplitude=.3)),
    dict(neuron=dict(IE_LIF, threshold='learned'))
], ids=str)
def test_classifiers(options, build, inputs):
    assert_equal_forms(build('cls', **options), inputs('cls'))


@pytest.mark.parametrize('weight_bits, time_steps', [(4, 1), (8, 2)])
@pytest.mark.parametrize('task', ['det', 'seg'])
def test_detectors_and_segmenters(task, weight_bits, time_steps, build,
                                  inputs):
    model = build(task, weight_bits, time_steps=time_steps)
    assert_equal_forms(model, inputs(task))


def test_whole_predictions_of_a_detector(build, inputs):
    model, data = build('det'), inputs('det')
    with torch.no_grad():
        mine = [s.pred_instances for s in to_integer(model)(**data)]
        theirs = [s.pred_instances for s in to_fast(model)(**data)]
    assert all(len(found) for found in mine)
    for a, b in zip(mine, theirs):
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.masks, b.masks)
        # Float32 rounding of boxes of up to 64 pixels.
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('unit, channels', [
    (ConvUnit(6, 8, 3, IE_LIF, bias=True, stride=2), 6),
    (SepConv(8, IE_LIF), 8), (SepConv(8, IE_LIF, inner_neuron=True), 8),
    (SpikeAttention(8, 2), 8), (SpikeAttention(8, 2, inner_neurons=True), 8)
], ids=str)
def test_parts_of_a_model_convert_alone(unit, channels):
    x = torch.randn(2, channels, 15, 17)
    assert_equal_forms(unit.eval(), x)


@pytest.mark.parametrize('name', SPIKING)
def test_networks_of_ones_own(name):
    builder, shape, _ = NETWORKS[name]
    model, x = as_if_trained(builder()), torch.randn(shape)
    assert_equal_forms(model, torch.randn(shape), x)


@has_kernels
def test_neurons_of_a_recipe_become_part_of_kernels():
    builder, shape, _ = NETWORKS['recipe']
    model = as_if_trained(nn.Sequential(IELIF(), *builder()))
    other = to_fast(model, torch.randn(shape))
    assert other[1].conv.emits == 4
    assert isinstance(other[1].activate, FusedNeuron)


def test_a_unit_used_twice_stays_one():
    unit = ConvUnit(8, 8, 1, IE_LIF)
    model = nn.Sequential(unit, unit).eval()
    other = to_fast(model)
    assert other[0] is other[1]
    assert_equal_forms(model, torch.randn(2, 8, 16, 16))


@has_kernels
@pytest.mark.parametrize('task', ['cls', 'det', 'seg'])
def test_spike_fed_codes_run_on_integer_kernels(task, build, inputs):
    model = build(task)
    other = to_fast(model)
    with torch.no_grad():
        other(**inputs(task))
    names = {d.name for d in describe(to_integer(model))
             if d.reads == 'spike' and (d.bits or 32) < 32}
    layers = dict(other.named_modules())
    joined = {n for n in names if '_conv.pointwise1' in n and 'proj' not in n}
    for name in names - joined:
        assert type(layers[name].kernel).__name__.startswith('Integer'), name
    attentions = [m for m in layers.values() if isinstance(m, FastAttention)]
    assert len(joined) == 3 * len(attentions) > 0
    assert all(isinstance(m.pointwise1.kernel, IntegerConv)
               for m in attentions)


@has_kernels
def test_what_is_fused(build):
    other = to_fast(build('cls')).backbone
    block = other.stages[0].blocks[0]
    assert block.sep_conv.expand.conv.emits == 4
    assert isinstance(block.sep_conv.neuron, FusedNeuron)
    assert block.conv1.conv.emits == 4
    assert isinstance(block.conv2.neuron, FusedNeuron)
    assert block.conv2.conv.emits is None
    block = other.stages[3].blocks[0]
    assert block.fc1.conv.emits == 4
    assert isinstance(block.attn.proj_conv, FastRepConv)


def test_a_copy_of_the_same_class_that_leaves_its_input_alone(build, inputs):
    model, data = build('cls'), inputs('cls')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    other = to_fast(model.train())
    assert type(other) is type(model) and model.training
    assert not any(m.training for m in other.modules())
    assert all(torch.equal(model.state_dict()[k], v)
               for k, v in before.items())
    for stage in (0, 3):
        block = other.backbone.stages[stage].blocks[0]
        x = torch.randn(1, 16 if stage else 4, 8, 8)
        kept = x.clone()
        with torch.no_grad():
            block(x)
        assert torch.equal(x, kept)
    with torch.no_grad():
        assert torch.equal(other(**data), other(**data))
    with pytest.raises(RuntimeError, match='train the float form'):
        other.train()
    with pytest.raises(ValueError, match='already'):
        to_fast(other)


def test_a_form_by_name(build):
    assert isinstance(to_form(build('cls'), 'fast').head.fc, FoldedLayer)


def test_copies_work_after_use(build, inputs):
    other = to_fast(build('cls'))
    with torch.no_grad():
        out = other(**inputs('cls'))
        torch.manual_seed(0)
    data = inputs('cls')
    with torch.no_grad():
        assert torch.equal(deepcopy(other)(**data), other(**data))
    assert out.shape == (2, 10)


@has_kernels
def test_no_regions(build):
    head = to_fast(build('det')).roi_head.bbox_head
    with torch.no_grad():
        scores, boxes = head(torch.zeros(0, 16, 7, 7))
    assert scores.shape == (0, 4) and len(boxes) == 0
    conv = to_fast(ConvUnit(4, 8, 3, IE_LIF))
    with torch.no_grad():
        assert conv(torch.zeros(0, 4, 6, 6)).shape == (0, 8, 6, 6)


# Neurons.


def potentials(threshold, levels):
    """Ties, their neighbours in float32, and anything between."""
    ties = (torch.arange(-2, levels + 2) + .5) * threshold
    near = [ties]
    for direction in (-torch.inf, torch.inf):
        x = ties
        for _ in range(3):
            x = x.nextafter(torch.tensor(direction))
            near.append(x)
    between = torch.rand(5000) * (levels + 4) * threshold - 2 * threshold
    return torch.cat([*near, between, torch.tensor([0., -0., 1e30, -1e30])])


@pytest.mark.parametrize('rounding', ['half_up', 'half_even'])
@pytest.mark.parametrize('levels', [1, 3, 4, 127])
@pytest.mark.parametrize('threshold', [.25, 1., 2., .35, .1])
def test_counts_of_neurons_to_the_last_bit(threshold, levels, rounding):
    neuron = IELIF(levels, threshold, rounding=rounding)
    x = potentials(threshold, levels)
    counts = FastNeuron(neuron)(x)
    assert counts.dtype == torch.uint8
    assert torch.equal(counts.float(), neuron.count(x))


@pytest.mark.parametrize('turn', [
    lambda x: x, lambda x: x.contiguous(memory_format=torch.channels_last),
    lambda x: x.transpose(2, 3), lambda x: x.flatten(1)],
    ids=['contiguous', 'channels_last', 'neither', 'flat'])
def test_counts_of_a_large_map(turn):
    """Which is gone through in pieces, the last one smaller."""
    neuron = IELIF(4, .7)
    x = turn(torch.randn(2, 3, 120, 2 * PIECE // 120) * 3)
    counts = FastNeuron(neuron)(x)
    assert x.numel() % PIECE and counts.stride() == x.stride()
    assert torch.equal(counts.float(), neuron.count(x))


@has_kernels
def test_attention_is_one_conv_where_thresholds_are_learned():
    attention = as_if_trained(
        SpikeAttention(8, 2, dict(IE_LIF, threshold='learned')))
    assert len({attention.q_neuron.threshold, attention.k_neuron.threshold,
                attention.v_neuron.threshold}) == 3
    assert isinstance(to_fast(attention), FastAttention)


@has_kernels
@pytest.mark.parametrize('rounding', ['half_up', 'half_even'])
@pytest.mark.parametrize('levels', [1, 3, 4, 7, 127])
def test_ties_in_a_kernel_that_emits_counts(levels, rounding):
    """Potentials that are multiples of half a threshold, exactly."""
    neuron = IELIF(levels, rounding=rounding)
    conv = LSQConv2d(1, 3, 1)
    nn.init.constant_(conv.weight, 1.)
    conv.load_state_dict(dict(conv.state_dict(), step_size=torch.ones(3)))
    layer = FastConv2d(
        WeightLayer(conv, Spikes.of(IELIF(127, amplitude=.125))), 'count')
    layer.bias = torch.tensor([0., -.25, -3.])
    counts = torch.arange(128, dtype=torch.uint8).view(1, 1, 8, 16)
    potential = layer(counts)
    assert (potential / .25 * 2 == (potential / .25 * 2).round()).all()
    emitted = layer.emitting(FastNeuron(neuron))(counts)
    assert emitted.dtype == torch.uint8
    assert torch.equal(emitted.float(), neuron.count(potential))


# Kernels.


@has_kernels
@pytest.mark.parametrize('bits', [2, 4, 8])
@pytest.mark.parametrize('groups', [1, 2, 8])
def test_integer_sums_are_exact(groups, bits):
    conv = LSQConv2d(8, 16, 3, groups=groups, bits=bits)
    layer = FastConv2d(WeightLayer(conv, MANY), 'count')
    layer.scale = (-1.)**torch.arange(16)  # norms can turn signs
    layer.bias = torch.zeros(16)
    layer.stride, layer.padding = (2, 1), (1, 2)
    # Several sizes and batches, two memory formats.
    for size in ((1, 8, 2, 1), (1, 8, 5, 7), (3, 8, 14, 14), (2, 8, 40, 23),
                 (2, 8, 5, 7)):
        counts = torch.randint(128, size, dtype=torch.uint8)
        plain = FoldedConv.operate(layer, counts.double(),
                                     layer.weight.double())
        plain = plain * layer.scale.view(-1, 1, 1)
        for x in (counts, counts.to(memory_format=torch.channels_last)):
            assert torch.equal(layer(x).double(), plain)


@has_kernels
def test_only_small_maps_have_weights_packed_for_them():
    kernel = IntegerConv(
        torch.ones(4, 4, 1, 1, dtype=torch.int8), torch.ones(4),
        torch.zeros(4))
    for size in ((16, 16), (40, 50), (3, 5), (10, 10)):
        kernel(torch.ones(1, 4, *size, dtype=torch.uint8))
    assert kernel.packed.keys() == {(16, 16), (3, 5)}


@has_kernels
def test_widths_whose_weights_are_packed_for_every_size():
    codes = torch.randint(-8, 8, (272, 4, 1, 1), dtype=torch.int8)
    kernel = IntegerConv(codes, torch.ones(272), torch.zeros(272))
    for side in range(10, 22):
        counts = torch.randint(5, (1, 4, side, side), dtype=torch.uint8)
        assert torch.equal(kernel(counts).double(), nn.functional.conv2d(
            counts.double(), codes.double()))
        assert (side, side) in kernel.packed
    assert len(kernel.packed) == 8  # and no more


@has_kernels
def test_integer_linear_is_exact():
    linear = LSQLinear(300, 20, bits=8)
    layer = FastLinear(WeightLayer(linear, MANY), 'count')
    layer.scale, layer.bias = torch.ones(20), torch.zeros(20)
    counts = torch.randint(128, (5, 300), dtype=torch.uint8)
    assert torch.equal(layer(counts).double(),
                       counts.double() @ layer.weight.double().T)


@has_kernels
def test_real_values_are_refused_where_counts_are_read():
    layer = FastConv2d(WeightLayer(LSQConv2d(4, 4, 1), MANY), 'count')
    with pytest.raises(ValueError, match='real values'):
        layer(torch.randn(1, 4, 8, 8))


@has_kernels
def test_borders_of_a_rep_conv_whose_norm_has_a_bias():
    unit = SpikeAttention(8, 2).q_conv.double().eval()
    assert isinstance(unit, RepConv)
    for norm in (unit.norm_pad.bn, unit.norm):
        nn.init.normal_(norm.running_mean)
        nn.init.normal_(norm.bias, std=3.)
    counts = torch.randint(5, (2, 8, 6, 7))
    attention = SpikeAttention(8, 2)
    attention.q_conv = unit.float()
    other = to_fast(attention)
    plain = to_integer(attention).q_conv(counts.float())
    joined = other.depthwise(other.pointwise1(counts.to(torch.uint8)))
    y = joined[:, :8].permute(0, 2, 3, 1) @ other.weight[0] + other.bias[0]
    # Sums of some hundred float32 values near 10 in another order.
    torch.testing.assert_close(
        y.permute(0, 3, 1, 2), plain, rtol=1e-5, atol=1e-5)


# Where the kernels are missing.


def assert_plain(model, reason, data, monkeypatch):
    lines = []
    monkeypatch.setattr(fast, 'print_log', lambda line, _: lines.append(line))
    other = to_fast(model)
    assert not any(isinstance(m, FastConv2d) for m in other.modules())
    assert len(lines) == 1 and reason in lines[0] and '\n' not in lines[0]
    with torch.no_grad():
        assert torch.equal(other(**data), to_integer(model)(**data))


@pytest.fixture
def forgotten():
    """What was found out about the kernels, forgotten before and after."""
    fast.find_kernel_obstacle.cache_clear()
    yield
    fast.find_kernel_obstacle.cache_clear()


def test_without_kernels(build, inputs, monkeypatch, forgotten):
    def missing(self, x):
        raise NotImplementedError('no such operator')

    monkeypatch.setattr(IntegerConv, '__call__', missing)
    assert_plain(build('cls'), 'no such operator', inputs('cls'), monkeypatch)


def test_with_kernels_that_compute_wrongly(build, inputs, monkeypatch,
                                           forgotten):
    def wrong(self, x):
        return x[:1, :1, :1, :1] + 1

    monkeypatch.setattr(IntegerConv, '__call__', wrong)
    assert_plain(
        build('cls'), 'wrong integer sums', inputs('cls'), monkeypatch)


def test_in_float64(build, inputs, monkeypatch):
    assert_plain(
        build('cls').double(), 'torch.float64', inputs('cls', torch.float64),
        monkeypatch)
