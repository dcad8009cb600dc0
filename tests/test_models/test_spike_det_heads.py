import re
from collections import OrderedDict

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import mmqsdt
from mmqsdt.deploy import to_integer, to_spikes
from mmqsdt.deploy.program import find_layers
from mmqsdt.layers import IELIF, LSQConv2d, LSQLinear, LSQWeight
from mmqsdt.models import HEAD_NEURON

pytest.importorskip('mmdet')

RELU = dict(type='ReLU')
ANCHORS = dict(
    type='AnchorGenerator', scales=[8], ratios=[.5, 1., 2.], strides=[4])
# The golden outputs came from another machine, whose convs may sum in
# another order; float32 sums of a few hundred terms of size 1.
SUM_ORDER = dict(rtol=1e-5, atol=1e-5)


def rpn(spike=True, **kwargs):
    kind = 'mmqsdt.SpikeRPNHead' if spike else 'mmdet.RPNHead'
    return MODELS.build(
        dict(
            dict(
                type=kind,
                in_channels=8,
                feat_channels=8,
                anchor_generator=ANCHORS), **kwargs))


def retina(spike=True, **kwargs):
    kind = 'mmqsdt.SpikeRetinaHead' if spike else 'mmdet.RetinaHead'
    return MODELS.build(
        dict(
            dict(
                type=kind,
                num_classes=5,
                in_channels=8,
                feat_channels=8,
                anchor_generator=ANCHORS), **kwargs))


def bbox_2fc(spike=True, **kwargs):
    kind = 'mmqsdt.SpikeShared2FCBBoxHead' if spike else \
        'mmdet.Shared2FCBBoxHead'
    return MODELS.build(
        dict(
            dict(
                type=kind,
                in_channels=6,
                roi_feat_size=3,
                fc_out_channels=12,
                num_classes=5), **kwargs))


def bbox_4conv1fc(spike=True, **kwargs):
    kind = 'mmqsdt.SpikeConvFCBBoxHead' if spike else 'mmdet.ConvFCBBoxHead'
    return MODELS.build(
        dict(
            dict(
                type=kind,
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=6,
                conv_out_channels=6,
                roi_feat_size=3,
                fc_out_channels=12,
                num_classes=5,
                norm_cfg=dict(type='BN')), **kwargs))


def mask(spike=True, **kwargs):
    kind = 'mmqsdt.SpikeFCNMaskHead' if spike else 'mmdet.FCNMaskHead'
    return MODELS.build(
        dict(
            dict(
                type=kind,
                in_channels=6,
                conv_out_channels=6,
                num_classes=5), **kwargs))


# head: (builder, shape of an input map)
HEADS = dict(
    rpn=(rpn, (2, 8, 6, 5)),
    retina=(retina, (2, 8, 6, 5)),
    bbox_2fc=(bbox_2fc, (7, 6, 3, 3)),
    bbox_4conv1fc=(bbox_4conv1fc, (7, 6, 3, 3)),
    mask=(mask, (3, 6, 7, 7)))


def run(head, x):
    """Every output of a head as one flat list of tensors."""
    if hasattr(head, 'prior_generator'):
        return [levels[0] for levels in head([x])]
    outs = head(x)
    return list(outs) if isinstance(outs, tuple) else [outs]


def renamed_published(state):
    """Published entries under our names."""
    ours = OrderedDict()
    for key, value in state.items():
        key = key.replace('.1.0.', '.')
        key = re.sub(r'^rpn_conv\.', 'rpn_conv.0.conv.', key)
        key = re.sub(r'^(rpn_cls|rpn_reg|conv_logits)\.', r'\1.conv.', key)
        key = re.sub(r'^(shared_fcs\.\d+)\.', r'\1.fc.', key)
        key = key.replace('.bn.', '.norm.')
        ours[key] = value
    return shuffled_deconv(ours)


def shuffled_deconv(state):
    """A deconvolution's weights as those of a 1x1 conv and pixel shuffle."""
    if 'upsample.weight' in state:
        weight = state.pop('upsample.weight')  # (C_in, C_out, s, s)
        area = weight.shape[2] * weight.shape[3]
        state['upsample.0.conv.weight'] = weight.permute(
            1, 2, 3, 0).reshape(-1, weight.shape[0], 1, 1)
        state['upsample.0.conv.bias'] = state.pop(
            'upsample.bias').repeat_interleave(area)
    return state


def renamed_stock(state):
    """Entries of mmdet's heads under our names."""
    ours = OrderedDict()
    for key, value in state.items():
        key = re.sub(r'^rpn_conv\.(weight|bias)', r'rpn_conv.0.conv.\1', key)
        key = re.sub(r'^((?:rpn|retina)_(?:cls|reg)|conv_logits)\.',
                     r'\1.conv.', key)
        key = re.sub(r'^(shared_fcs\.\d+|fc_cls|fc_reg)\.', r'\1.fc.', key)
        key = key.replace('.bn.', '.norm.')
        ours[key] = value
    return shuffled_deconv(ours)


@pytest.mark.parametrize('phase', ['train', 'eval'])
@pytest.mark.parametrize('name', ['rpn', 'bbox_2fc', 'bbox_4conv1fc', 'mask'])
def test_equals_the_published_head(golden, name, phase):
    build, _ = HEADS[name]
    prefix = f'det_{name.replace("_", "")}'
    head = build()
    head.load_state_dict(renamed_published(golden('heads',
                                                  f'{prefix}/state/')))
    head.train(phase == 'train')
    outs = run(head, golden('heads', f'{prefix}/in0')[''][0])
    expected = golden('heads', f'{prefix}/{phase}_out')
    assert len(outs) == len(expected)
    for i, out in enumerate(outs):
        # Theirs has a time axis of 1, but for the masks, averaged already.
        torch.testing.assert_close(
            out, expected[str(i)].reshape(out.shape), **SUM_ORDER)


@pytest.mark.parametrize('name', ['rpn', 'retina', 'bbox_2fc', 'mask'])
def test_training_and_evaluation_are_the_same_function(name):
    build, shape = HEADS[name]
    head, x = build(), 3 * torch.randn(shape)
    for a, b in zip(run(head.train(), x), run(head.eval(), x)):
        assert torch.equal(a, b)


@pytest.mark.parametrize('neuron', [HEAD_NEURON, RELU], ids=['ielif', 'relu'])
@pytest.mark.parametrize('bits', [None, 4])
@pytest.mark.parametrize('name', HEADS)
def test_every_weight_and_the_input_get_a_gradient(name, bits, neuron):
    build, shape = HEADS[name]
    head = build(neuron=neuron, weight_bits=bits)
    head.init_weights()
    # Wide enough that spikes reach the last layer of these narrow heads.
    x = (4 * torch.randn(shape)).requires_grad_()
    sum(out.square().mean() for out in run(head, x)).backward()
    for key, p in [*head.named_parameters(), ('input', x)]:
        assert p.grad is not None and p.grad.abs().sum() > 0, key


@pytest.mark.parametrize('name, kwargs', [
    ('rpn', dict()),
    ('rpn', dict(num_convs=1)),
    ('retina', dict()),
    ('bbox_2fc', dict(predictor_neuron=True)),
    ('mask', dict()),
    ('mask', dict(upsample_cfg=dict(type='deconv', scale_factor=3))),
    ('mask', dict(upsample_cfg=dict(type='nearest', scale_factor=2))),
    ('mask', dict(upsample_cfg=dict(type=None))),
])
def test_relu_gives_the_stock_head_behind_a_relu(name, kwargs):
    build, shape = HEADS[name]
    ours = build(neuron=RELU, **kwargs)
    kwargs = {k: v for k, v in kwargs.items() if k != 'predictor_neuron'}
    stock = build(spike=False, **kwargs)
    ours.load_state_dict(renamed_stock(stock.state_dict()))
    x = torch.randn(shape)
    for a, b in zip(run(ours, x), run(stock, x.relu())):
        # A deconvolution sums in another order than a 1x1 conv.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('bits', [2, 4, 8])
@pytest.mark.parametrize('name, kwargs', [
    *((name, dict()) for name in HEADS),
    ('bbox_2fc', dict(predictor_neuron=True)),
    ('bbox_4conv1fc', dict(predictor_neuron=True)),
])
def test_bits_quantise_every_weight(name, kwargs, bits):
    build, _ = HEADS[name]
    head = build(weight_bits=bits, **kwargs)
    layers = [
        m for m in head.modules()
        if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))
    ]
    assert layers
    for layer in layers:
        assert isinstance(layer, (LSQConv2d, LSQLinear))
        assert layer.bits == bits


@pytest.mark.parametrize('name', HEADS)
def test_without_bits_no_weight_is_quantised(name):
    build, _ = HEADS[name]
    layers = [m for m in build().modules() if isinstance(m, LSQWeight)]
    assert layers and all(m.bits is None for m in layers)


@pytest.mark.parametrize('name', HEADS)
def test_every_neuron_is_the_configured_one(name):
    build, shape = HEADS[name]
    head = build(
        neuron=dict(
            type='mmqsdt.IELIF', levels=3, threshold=.5, amplitude=2.))
    neurons = [m for m in head.modules() if isinstance(m, IELIF)]
    assert neurons
    seen = []
    for neuron in neurons:
        assert (neuron.levels, neuron.threshold, neuron.amplitude) == (3, .5,
                                                                      2.)
        neuron.register_forward_hook(
            lambda module, args, out: seen.append(out.unique().tolist()))
    run(head, torch.randn(shape))
    assert len(seen) == len(neurons)  # none is idle, none runs twice
    assert all(set(values) <= {0., 2., 4., 6.} for values in seen)
    activations = (nn.ReLU, nn.Sigmoid)
    assert not any(isinstance(m, activations) for m in head.modules())


@pytest.mark.parametrize('predictor_neuron', [False, True])
def test_predictors_read_spikes_if_asked_to(predictor_neuron):
    head = bbox_2fc(predictor_neuron=predictor_neuron)
    last = head.fc_cls.fc if predictor_neuron else head.fc_cls
    read = []
    last.register_forward_hook(lambda module, args, out: read.append(args[0]))
    head(2 * torch.randn(7, 6, 3, 3))
    assert torch.equal(read[0], read[0].round()) == predictor_neuron


@pytest.mark.parametrize('form', [to_integer, to_spikes])
@pytest.mark.parametrize('name', HEADS)
def test_integer_and_spike_form_are_the_same_function(name, form):
    build, shape = HEADS[name]
    head = build(weight_bits=4).eval()
    x = 2 * torch.randn(shape)
    # The scale of the weights is applied behind the sum, not before it.
    for a, b in zip(run(form(head), x), run(head, x)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', HEADS)
def test_every_layer_reads_spikes(name):
    build, _ = HEADS[name]
    options = dict(predictor_neuron=True) if 'bbox' in name else {}
    layers = find_layers(build(weight_bits=4, **options))
    assert layers
    assert [k for k, entry in layers.items() if entry.neuron is None] == []


@pytest.mark.parametrize('name', HEADS)
def test_float_weights_load_into_a_quantised_head(name):
    build, _ = HEADS[name]
    source, target = build(), build(weight_bits=8)
    target.load_state_dict(source.state_dict())
    loaded = dict(target.named_parameters())
    for key, p in source.named_parameters():
        assert torch.equal(loaded[key], p)


def test_a_given_predictor_is_kept():
    head = bbox_2fc(
        weight_bits=4, cls_predictor_cfg=dict(type='mmdet.NormedLinear'))
    assert type(head.fc_cls).__name__ == 'NormedLinear'
    assert isinstance(head.fc_reg, LSQLinear)


@pytest.mark.parametrize('branch', ['cls', 'reg'])
def test_separate_branches_spike_too(branch):
    head = bbox_4conv1fc(**{
        'num_shared_fcs': 0,
        f'num_{branch}_convs': 1,
        f'num_{branch}_fcs': 1
    })
    scores, deltas = head(torch.randn(7, 6, 3, 3))
    assert scores.shape == (7, 6) and deltas.shape == (7, 20)
    # 4 shared convs, 1 conv and 1 fc of the branch.
    assert sum(isinstance(m, IELIF) for m in head.modules()) == 6


def test_pooled_regions_fit():
    head = bbox_2fc(with_avg_pool=True)
    scores, _ = head(torch.randn(7, 6, 3, 3))
    assert scores.shape == (7, 6)


@pytest.mark.parametrize('name', ['bbox_2fc', 'bbox_4conv1fc', 'mask'])
def test_no_region_gives_no_output(name):
    build, shape = HEADS[name]
    head = build().eval()
    assert [len(out) for out in run(head, torch.rand(0, *shape[1:]))
            ] == [0] * len(run(head, torch.rand(shape)))


@pytest.mark.parametrize('name', ['rpn', 'retina'])
def test_spikes_reach_the_predictors_of_a_fresh_head(name):
    build = HEADS[name][0]
    head = build(in_channels=64, feat_channels=64)
    head.init_weights()
    predictor = getattr(head, f'{name}_cls')
    rates = []
    predictor.neuron.register_forward_hook(
        lambda module, args, out: rates.append((out > 0).float().mean()))
    run(head, torch.randn(1, 64, 16, 16))
    assert rates[0] > 0.1
    for layer in (predictor, getattr(head, f'{name}_reg')):
        assert layer.conv.weight.std().item() == pytest.approx(0.01, rel=0.2)
    # The prior of RetinaNet, a foreground probability of 0.01.
    bias = -4.595 if name == 'retina' else 0.
    assert predictor.conv.bias.mean().item() == pytest.approx(bias, abs=1e-3)


def test_fresh_linear_layers_are_initialised_like_mmdets():
    head = bbox_2fc(
        in_channels=64, fc_out_channels=256, predictor_neuron=True)
    head.init_weights()
    # Xavier uniform: std = sqrt(2 / (fan_in + fan_out)).
    expected = (2 / (64 * 9 + 256))**0.5
    assert head.shared_fcs[0].fc.weight.std().item() == pytest.approx(
        expected, rel=0.05)
    assert head.fc_cls.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert head.fc_reg.fc.weight.std().item() == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize('build', [bbox_4conv1fc, mask, retina])
def test_other_convs_are_refused(build):
    with pytest.raises(ValueError, match='expected a plain conv'):
        build(conv_cfg=dict(type='mmqsdt.LSQConv2d', bits=4))


@pytest.mark.parametrize('name, framework', [
    ('SpikeRPNHead', 'RPNHead'),
    ('SpikeRetinaHead', 'RetinaHead'),
    ('SpikeConvFCBBoxHead', 'ConvFCBBoxHead'),
    ('SpikeShared2FCBBoxHead', 'ConvFCBBoxHead'),
    ('SpikeFCNMaskHead', 'FCNMaskHead'),
])
def test_heads_are_mmdets_own_with_losses_untouched(name, framework):
    cls = getattr(mmqsdt, name)
    stock = MODELS.get(f'mmdet.{framework}')
    assert issubclass(cls, stock)
    for method in ('loss', 'loss_by_feat', 'predict', 'predict_by_feat',
                   'get_targets', 'loss_and_target'):
        if (framework, method) != ('ConvFCBBoxHead', 'loss'):
            assert getattr(cls, method, None) is getattr(stock, method, None)


def test_the_loss_of_a_box_head_is_mmdets():
    scores, deltas = torch.randn(7, 6), torch.randn(7, 20)
    rois, targets = torch.rand(7, 5), torch.rand(7, 4)
    labels, weights = torch.arange(7) % 6, torch.ones(7)
    ours, stock = (
        head.loss(scores, deltas, rois, labels, weights, targets,
                   torch.ones(7, 4))
        for head in (bbox_2fc(), bbox_2fc(spike=False)))
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[k], stock[k]) for k in ours)
