import re

import pytest
import torch

from mmqsdt import (
    LSQConv2d,
    QSDTransformer,
    convert_reference_checkpoint,
)
from mmqsdt.checkpoints.convert import (
    convert_reference_key,
    is_reference_checkpoint,
)

DEAD = re.compile(r'\.(init_state|act\.(alpha|zero_point|init_state|signed))$')
ARCH = dict(embed_dims=(16, 32, 64, 80), depths=(3, 1), num_heads=8)
STEP = 'head.alpha'
WEIGHT = 'head.weight'


@pytest.fixture
def state(golden):
    return golden('tiny_cls', 'state/')


def quantize(weight, step):
    """The authors' 4-bit fake quantisation."""
    step = step.view(-1, 1)
    return (weight / step).clamp(-8, 7).round() * step


@pytest.mark.parametrize('key, name', [
    ('downsample1_1.encode_conv.weight',
     'backbone.stages.0.downsample.conv.weight'),
    ('downsample4.encode_bn.running_var',
     'backbone.stages.4.downsample.norm.running_var'),
    ('ConvBlock1_1.0.Conv.pwconv1.alpha',
     'backbone.stages.0.blocks.0.sep_conv.expand.conv.step_size'),
    ('ConvBlock1_2.0.Conv.bn1.weight',
     'backbone.stages.1.blocks.0.sep_conv.expand.norm.weight'),
    ('ConvBlock2_1.0.Conv.dwconv.weight',
     'backbone.stages.2.blocks.0.sep_conv.depthwise.weight'),
    ('ConvBlock2_2.0.conv2.alpha',
     'backbone.stages.2.blocks.1.conv2.conv.step_size'),
    ('block3.11.attn.q_conv.0.body.1.bn.num_batches_tracked',
     'backbone.stages.3.blocks.11.attn.q_conv.norm_pad.bn'
     '.num_batches_tracked'),
    ('block3.0.attn.proj_conv.1.bias',
     'backbone.stages.3.blocks.0.attn.proj_norm.bias'),
    ('block4.1.mlp.fc2_conv.bias', 'backbone.stages.4.blocks.1.fc2.conv.bias'),
    ('block4.0.layer_scale2', 'backbone.stages.4.blocks.0.layer_scale2'),
    ('head.weight', 'head.fc.weight'),
    ('head.alpha', 'head.fc.step_size'),
    ('head.act.alpha', None),
    ('downsample2.encode_conv.init_state', None),
])
def test_key_names(key, name):
    assert convert_reference_key(key) == name


@pytest.mark.parametrize('key', [
    'layer1.0.conv1.weight', 'head.scale', 'head.weight.extra',
    'block3.0.attn.q_conv.0.body.3.weight', 'block5.0.layer_scale1',
    'block3.0.layer_scale3', 'backbone.downsample2.encode_bn.bias', ''
])
def test_key_of_another_network_is_refused(key):
    with pytest.raises(KeyError):
        convert_reference_key(key)


def test_every_entry_is_accounted_for(state):
    converted = convert_reference_checkpoint(state)
    alive = [k for k in state if not DEAD.search(k)]
    assert len(alive) < len(state)
    assert [convert_reference_key(k) for k in alive] == list(converted)
    for key, (name, value) in zip(alive, converted.items()):
        assert torch.equal(value.flatten(), state[key].flatten()), name


def test_result_is_the_state_dict_of_our_classifier(state):
    pytest.importorskip('mmpretrain')
    from mmengine.registry import MODELS
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='mmqsdt.QSDTransformer', arch=ARCH),
            head=dict(
                type='mmqsdt.SpikeLinearClsHead',
                num_classes=10,
                in_channels=80)))
    converted = convert_reference_checkpoint(state)
    model.load_state_dict(converted)  # strict
    loaded = model.state_dict()
    for name, value in converted.items():
        assert torch.equal(loaded[name], value), name


def test_backbone_only_drops_the_head_and_the_prefix(state):
    backbone = convert_reference_checkpoint(state, backbone_only=True)
    whole = convert_reference_checkpoint(state)
    assert len(whole) - len(backbone) == 3  # weight, bias, step size
    for name, value in backbone.items():
        assert torch.equal(whole[f'backbone.{name}'], value)
    model = QSDTransformer(ARCH)
    model.load_state_dict(backbone)  # strict
    assert any(isinstance(m, LSQConv2d) for m in model.modules())


@pytest.mark.parametrize('prefix',
                         ['module.', 'backbone.', 'module.backbone.'])
def test_prefixes_of_wrappers_are_cut_off(state, prefix):
    del state['head.weight'], state['head.alpha'], state['head.bias']
    converted = convert_reference_checkpoint(
        {prefix + k: v for k, v in state.items()})
    expected = convert_reference_checkpoint(state)
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[k], expected[k]) for k in expected)


def test_detection_state_needs_no_dead_entries(golden):
    state = golden('det_backbone', 'state/')
    assert not any('.act.' in k for k in state)
    converted = convert_reference_checkpoint(state, backbone_only=True)
    QSDTransformer(ARCH).load_state_dict(converted)  # strict


def test_unknown_entries_are_counted_and_one_is_named(state):
    state['neck.conv.weight'] = torch.rand(1)
    state['neck.conv.bias'] = torch.rand(1)
    with pytest.raises(ValueError, match="2 keys.*'neck.conv.weight'"):
        convert_reference_checkpoint(state)


def test_own_state_dict_is_no_published_one(state):
    assert is_reference_checkpoint(state)
    assert is_reference_checkpoint(
        {f'module.{k}': v for k, v in state.items()})
    own = convert_reference_checkpoint(state)
    assert not is_reference_checkpoint(own)
    with pytest.raises(ValueError, match='not of the published'):
        convert_reference_checkpoint(own)


def test_step_sizes_of_trained_weights_are_kept_exactly(state):
    converted = convert_reference_checkpoint(state)
    assert torch.equal(converted['head.fc.step_size'], state[STEP])


def test_negative_step_size_with_a_positive_equal_is_accepted(state):
    # Largest code 6: neither bound of the codes is reached.
    step = state[WEIGHT].abs().amax(1) / 6
    state[STEP] = torch.cat([-step[:3], step[3:]])
    converted = convert_reference_checkpoint(state)['head.fc.step_size']
    assert torch.equal(converted, step)
    assert torch.equal(
        quantize(state[WEIGHT], converted),
        quantize(state[WEIGHT], state[STEP]))


def test_zero_step_size_becomes_the_smallest_and_the_weights_zero(state):
    state[STEP][4] = 0.
    converted = convert_reference_checkpoint(state)['head.fc.step_size']
    assert (converted > 0).all()
    assert torch.equal(converted[5:], state[STEP][5:])
    assert quantize(state[WEIGHT], converted)[4].abs().max() < 1e-6


def test_negative_step_size_without_a_positive_equal_is_refused(state):
    # Code 8 exists on the positive side only if the step is negative.
    state[STEP][4] = -state[WEIGHT][4].abs().max() / 20
    with pytest.raises(
            ValueError, match='head.fc.step_size has 1 step sizes'):
        convert_reference_checkpoint(state)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_step_size_that_never_was_trained_is_refused(state, value):
    state['downsample2.encode_conv.alpha'][1] = value
    with pytest.raises(
            ValueError,
            match='stages.2.downsample.conv.step_size is not finite'):
        convert_reference_checkpoint(state)


def test_input_is_left_as_it_was(state):
    state[STEP] = -state[WEIGHT].abs().amax(1) / 6
    before = {k: v.clone() for k, v in state.items()}
    convert_reference_checkpoint(state)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[k], before[k]) for k in before)
