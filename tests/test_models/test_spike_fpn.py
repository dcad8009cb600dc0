import re

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS
from torch import nn

from mmqsdt import IELIF, LSQConv2d
from mmqsdt.deploy import to_integer, to_spikes
from mmqsdt.models import HEAD_NEURON, SpikeConv, SpikeFPN
from mmqsdt.models.spike_units import to_spike_conv

SEGMENTATION = dict(HEAD_NEURON, amplitude=0.25)
RELU = dict(type='ReLU')
# The golden outputs came from another machine, whose convs may sum in
# another order; float32 sums of a few hundred terms of size 1.
SUM_ORDER = dict(rtol=1e-5, atol=1e-5)


def maps(channels=(4, 6, 8), size=16, batch=2, scale=2.):
    return [
        scale * torch.randn(batch, c, size >> i, size >> i)
        for i, c in enumerate(channels)
    ]


def detection_fpn(golden):
    published = golden('heads', 'det_fpn/state/')
    fpn = SpikeFPN([8, 12, 16, 20], 16, num_outs=5)
    fpn.load_state_dict(
        {k.replace('.1.0.', '.'): v
         for k, v in published.items()})
    return fpn


def segmentation_fpn(golden):
    """Their conv has a bias in front of the norm, which subtracts it again:
    ours has none, and a mean that is smaller by it."""
    state = {}
    for key, value in golden('heads', 'seg_fpn/state/').items():
        key = re.sub(r'\.(\d)\.0\.', r'.\1.conv.', key)
        state[re.sub(r'\.(\d)\.1\.', r'.\1.norm.', key)] = value
    for key in [k for k in state if k.endswith('conv.bias')]:
        mean = key.replace('conv.bias', 'norm.running_mean')
        state[mean] = state[mean] - state.pop(key)
    fpn = SpikeFPN([4, 8, 12, 20],
                   16,
                   num_outs=4,
                   neuron=SEGMENTATION,
                   norm_cfg=dict(type='BN'))
    fpn.load_state_dict(state)
    return fpn


@pytest.mark.parametrize('training', [True, False])
def test_detection_fpn_equals_the_published_one_in_training(golden, training):
    # The published evaluation clamps at one spike, which is a defect.
    fpn = detection_fpn(golden).train(training)
    outs = fpn([golden('heads', f'det_fpn/in{i}')[''][0] for i in range(4)])
    assert len(outs) == 5
    for i, out in enumerate(outs):
        expected = golden('heads', f'det_fpn/train_out{i}')[''][0]
        torch.testing.assert_close(out, expected, **SUM_ORDER)


@pytest.mark.parametrize('phase', ['train', 'eval'])
def test_segmentation_fpn_equals_the_published_one(golden, phase):
    fpn = segmentation_fpn(golden).train(phase == 'train')
    outs = fpn([golden('heads', f'seg_fpn/in{i}')[''] for i in range(4)])
    assert len(outs) == 4
    for i, out in enumerate(outs):
        expected = golden('heads', f'seg_fpn/{phase}_out{i}')['']
        torch.testing.assert_close(out, expected, **SUM_ORDER)


def test_training_and_evaluation_are_the_same_function():
    fpn = SpikeFPN([4, 6, 8], 8, num_outs=4)
    inputs = maps(scale=5.)
    for a, b in zip(fpn.train()(inputs), fpn.eval()(inputs)):
        assert torch.equal(a, b)


@pytest.mark.parametrize('neuron', [HEAD_NEURON, SEGMENTATION, RELU])
def test_every_weight_and_input_gets_a_gradient(neuron):
    fpn = SpikeFPN([4, 6, 8],
                   8,
                   num_outs=5,
                   add_extra_convs='on_output',
                   neuron=neuron,
                   weight_bits=4,
                   norm_cfg=dict(type='BN'))
    fpn.init_weights()
    inputs = [x.requires_grad_() for x in maps()]
    sum(out.square().mean() for out in fpn(inputs)).backward()
    for name, p in [*fpn.named_parameters(), *enumerate(inputs)]:
        assert p.grad is not None and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize('add_extra_convs, sizes', [
    (False, [16, 8, 4, 2, 1]),
    (True, [16, 8, 4, 2, 1]),
    ('on_input', [16, 8, 4, 2, 1]),
    ('on_lateral', [16, 8, 4, 2, 1]),
    ('on_output', [16, 8, 4, 2, 1]),
])
def test_extra_levels_halve_the_last(add_extra_convs, sizes):
    fpn = SpikeFPN([4, 6, 8], 8, num_outs=5, add_extra_convs=add_extra_convs)
    outs = fpn(maps())
    assert [tuple(x.shape) for x in outs] == [(2, 8, s, s) for s in sizes]


@pytest.mark.parametrize('add_extra_convs',
                         ['on_input', 'on_lateral', 'on_output'])
def test_extra_convs_read_what_they_are_told_to(add_extra_convs):
    fpn = SpikeFPN([4, 6, 8], 8, num_outs=4, add_extra_convs=add_extra_convs)
    inputs = maps()
    outs = fpn(inputs)
    source = dict(
        on_input=inputs[-1],
        on_lateral=fpn.lateral_convs[-1](inputs[-1]),
        on_output=outs[2])[add_extra_convs]
    assert torch.equal(outs[3], fpn.extra_convs[0](source))


def test_levels_outside_start_and_end_are_not_used():
    fpn = SpikeFPN([4, 6, 8], 8, num_outs=1, start_level=1, end_level=1)
    inputs = maps()
    (out, ) = fpn(inputs)
    inputs[0], inputs[2] = inputs[0] + 9, inputs[2] + 9
    assert torch.equal(fpn(inputs)[0], out)
    assert out.shape == (2, 8, 8, 8)


def test_relu_gives_the_fpn_behind_a_relu():
    mmdet_models = pytest.importorskip('mmdet.models')
    stock = mmdet_models.FPN([4, 6, 8], 8, num_outs=4)
    ours = SpikeFPN([4, 6, 8], 8, num_outs=4, neuron=RELU)
    # Without the ReLU between the convs the two are the same chain.
    for conv in ours.fpn_convs:
        conv.neuron = nn.Identity()
    ours.load_state_dict(stock.state_dict())
    inputs = [x.abs() for x in maps()]
    for a, b in zip(ours(inputs), stock(inputs)):
        assert torch.equal(a, b)


def test_bits_quantise_every_conv():
    fpn = SpikeFPN([4, 6, 8],
                   8,
                   num_outs=5,
                   add_extra_convs=True,
                   weight_bits=4)
    convs = [m for m in fpn.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 8
    assert all(isinstance(m, LSQConv2d) and m.bits == 4 for m in convs)
    # The step sizes follow the init, which re-drew the weights.
    fpn.init_weights()
    fpn(maps())
    for conv in convs:
        expected = 2 * conv.weight.abs().mean() / 7**0.5
        torch.testing.assert_close(conv.step_size,
                                   expected.expand_as(conv.step_size))


def test_float_weights_load_into_a_quantised_fpn():
    source = SpikeFPN([4, 6, 8], 8, num_outs=3)
    target = SpikeFPN([4, 6, 8], 8, num_outs=3, weight_bits=8)
    target.load_state_dict(source.state_dict())
    for name, p in source.named_parameters():
        assert torch.equal(dict(target.named_parameters())[name], p)


@pytest.mark.parametrize('form', [to_integer, to_spikes])
def test_integer_and_spike_form_are_the_same_function(form):
    fpn = SpikeFPN([4, 6, 8],
                   8,
                   num_outs=4,
                   neuron=SEGMENTATION,
                   weight_bits=4,
                   norm_cfg=dict(type='BN')).eval()
    inputs = maps()
    for a, b in zip(form(fpn)(inputs), fpn(inputs)):
        # The scale of the norm is applied in another order.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_config_of_any_framework_builds_it():
    fpn = MODELS.build(
        dict(
            type='mmqsdt.SpikeFPN',
            in_channels=[4],
            out_channels=8,
            num_outs=1,
            neuron=dict(type='mmqsdt.IELIF', levels=2)))
    neurons = [m for m in fpn.modules() if isinstance(m, IELIF)]
    assert [n.levels for n in neurons] == [2, 2]


@pytest.mark.parametrize('wrong, message', [
    (dict(num_outs=2), 'num_outs=2'),
    (dict(num_outs=2, end_level=0), 'num_outs=2'),
    (dict(num_outs=3, start_level=3), 'num_outs=3'),
    (dict(num_outs=4, add_extra_convs='on_top'), 'add_extra_convs'),
])
def test_levels_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SpikeFPN([4, 6, 8], 8, **wrong)


def test_a_wrong_number_of_maps_is_refused():
    with pytest.raises(ValueError, match='3 maps, got 2'):
        SpikeFPN([4, 6, 8], 8, num_outs=3)(maps()[:2])


@pytest.mark.parametrize('norm', [None, 'BN', 'GN'])
def test_a_stock_conv_becomes_a_spiking_one_of_the_same_shape(norm):
    norm_cfg = norm and dict(
        type=norm, **(dict(num_groups=2) if norm == 'GN' else {}))
    stock = ConvModule(4, 6, 3, padding=1, stride=2, norm_cfg=norm_cfg)
    unit = to_spike_conv(stock, HEAD_NEURON, 4)
    assert isinstance(unit, SpikeConv)
    assert (unit.conv.bias is None) == (norm is not None)
    assert type(unit.norm) is (type(stock.norm) if norm else nn.Identity)
    x = torch.randn(2, 4, 8, 8)
    assert unit(x).shape == stock(x).shape


@pytest.mark.parametrize('layer', [
    nn.Conv2d(4, 4, 3, padding=1, groups=2),
    nn.Conv2d(4, 4, 3),
    nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    LSQConv2d(4, 4, 1),
    nn.Linear(4, 4),
])
def test_what_is_no_plain_conv_is_refused(layer):
    with pytest.raises(ValueError, match='plain conv for'):
        to_spike_conv(layer, HEAD_NEURON, None)
