import logging
from copy import deepcopy
from unittest.mock import patch

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import mmqsdt
from mmqsdt import (
    IELIF,
    LSQConv2d,
    QSDTransformer,
    convert_reference_checkpoint,
    get_config_path,
)
from mmqsdt.checkpoints.convert import convert_reference_key
from mmqsdt.layers import SpikingNeuron
from mmqsdt.models import ARCHS
from mmqsdt.models.backbones.qsd_transformer import resolve_arch

SMALL = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1), num_heads=2)
TAPS = (0, 1, 2, 3, 4)

# The published parameter counts as built, less the entries that take no part
# in the forward, less the head (C3 * 1000 weights, 1000 biases and steps).
PARAMETERS = {
    'tiny': 1_295_512,  # not published; summed by hand from the layer table
    '8m': 8_432_142 - 63_094 - 258_000,
    '15m': 14_798_432,
    '31m': 31_527_302 - 123_942 - 482_000,
    '55m': 55_607_830 - 165_254 - 642_000,
    '75m': 75_022_870 - 239_238 - 642_000,
    '124m': 124_127_030 - 247_878 - 962_000,
}


def published_arch(state):
    """The arch dict of a published state dict, from its shapes."""
    units = ('downsample1_2', 'downsample2', 'downsample3', 'downsample4')
    dims = [len(state[f'{unit}.encode_conv.weight']) for unit in units]
    depths = [
        len({k.split('.')[1]
             for k in state if k.startswith(block)})
        for block in ('block3.', 'block4.')
    ]
    return dict(embed_dims=dims, depths=depths, num_heads=8)


def small_model(seed=0, **kwargs):
    """A small backbone in which every block has its say."""
    torch.manual_seed(seed)
    kwargs = dict(dict(arch=SMALL, out_indices=TAPS), **kwargs)
    model = QSDTransformer(**kwargs)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if 'layer_scale' in name:  # 1e-6 would hide attention and MLP
                p.fill_(0.5)
    return model


def batch_norms(model):
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def statistics(model):
    return {
        k: v.clone()
        for k, v in model.state_dict().items()
        if k.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
    }


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    different = [k for k in actual if not torch.equal(actual[k], expected[k])]
    assert not different


# Equal to the published network ---------------------------------------------
@pytest.fixture
def state(golden):
    return golden('tiny_cls', 'state/')


@pytest.fixture
def classifier(state):
    """Our backbone and head with the weights of the golden classifier."""
    pytest.importorskip('mmpretrain')
    arch = published_arch(state)
    model = nn.ModuleDict(
        dict(
            backbone=QSDTransformer(arch, out_indices=TAPS),
            head=mmqsdt.SpikeLinearClsHead(10, arch['embed_dims'][3])))
    model.load_state_dict(convert_reference_checkpoint(state))
    return model


def test_arch_is_read_from_the_published_shapes(state):
    assert published_arch(state) == dict(
        embed_dims=[16, 32, 64, 80], depths=[3, 1], num_heads=8)


def test_eval_maps_and_logits_equal_the_published_network(
        golden, classifier):
    vectors = golden('tiny_cls')
    classifier.eval()
    with torch.no_grad():
        maps = classifier['backbone'](vectors['input'])
        logits = classifier['head'](maps)
    # 1e-5: float32 sums in another order; the spikes are the same.
    for i, x in enumerate(maps):
        expected = vectors[f'stage{i}'][0]
        assert expected.std() > 0.1
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, vectors['logits'], rtol=0, atol=1e-5)


def test_every_neuron_fires_as_in_the_published_network(golden, classifier):
    vectors = golden('tiny_cls')
    fired = []
    for module in classifier.modules():
        if isinstance(module, SpikingNeuron):
            module.register_forward_hook(lambda m, x, y: fired.append(
                (y.mean().item(), (y != 0).float().mean().item())))
    classifier.eval()
    with torch.no_grad():
        classifier['head'](classifier['backbone'](vectors['input']))
    assert len(fired) == len(vectors['neuron_names']) == 49
    mean, nonzero = torch.tensor(fired).T
    # 1e-6: the spikes are equal, their means are sums in another order.
    for ours, key in ((mean, 'neuron_mean'), (nonzero, 'neuron_nonzero')):
        torch.testing.assert_close(ours, vectors[key], rtol=0, atol=1e-6)


def test_training_pass_equals_the_published_network(
        golden, state, classifier):
    vectors = golden('tiny_cls')
    classifier.train()
    logits = classifier['head'](classifier['backbone'](vectors['input']))
    logits.square().mean().backward()
    # 1e-5: float32 sums in another order.
    torch.testing.assert_close(
        logits, vectors['train_logits'], rtol=0, atol=1e-5)

    parameters = dict(classifier.named_parameters())
    gradients = golden('tiny_cls', 'grad/')
    assert len(gradients) == 6
    for key, expected in gradients.items():
        grad = parameters[convert_reference_key(key)].grad
        # Relative to the largest entry: small ones are sums that cancel.
        error = (grad - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, key

    ours = classifier.state_dict()
    after = golden('tiny_cls', 'after_train/')
    assert len(after) == 6
    for key, expected in after.items():
        assert not torch.equal(expected, state[key])
        # Means and variances are float32 sums in another order.
        torch.testing.assert_close(
            ours[convert_reference_key(key)], expected, rtol=1e-5, atol=1e-6)


def test_detection_taps_equal_the_published_backbone(golden):
    vectors = golden('det_backbone')
    state = golden('det_backbone', 'state/')
    model = QSDTransformer(
        published_arch(state), out_indices=(1, 2, 3, 4)).eval()
    model.load_state_dict(
        convert_reference_checkpoint(state, backbone_only=True))
    with torch.no_grad():
        maps = model(vectors['input'])
    # 1e-5: float32 sums in another order; the spikes are the same.
    for i, x in enumerate(maps):
        torch.testing.assert_close(
            x, vectors[f'out{i}'][0], rtol=0, atol=1e-5)


# The zoo --------------------------------------------------------------------
def test_every_arch_has_a_known_parameter_count():
    assert PARAMETERS.keys() == ARCHS.keys()


@pytest.mark.parametrize('arch', ARCHS)
def test_parameter_count(arch):
    with torch.device('meta'):
        model = QSDTransformer(arch)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch]


def test_blocks_of_the_stages_as_published():
    with torch.device('meta'):
        depths = {
            arch: [len(s.blocks) for s in QSDTransformer(arch).stages]
            for arch in ('tiny', '15m', '75m')
        }
    assert depths == {
        'tiny': [1, 1, 2, 3, 1],
        '15m': [1, 1, 2, 6, 2],
        '75m': [1, 1, 2, 9, 3]
    }


def test_default_mlp_ratio_and_heads_are_filled_in():
    arch = resolve_arch(dict(embed_dims=(8, 8, 16, 16), depths=6))
    assert arch == dict(
        embed_dims=(8, 8, 16, 16), depths=(4, 1), num_heads=8, mlp_ratio=4)


def test_mlp_ratio_sets_the_hidden_width():
    model = QSDTransformer(dict(SMALL, mlp_ratio=2))
    assert model.stages[1].blocks[0].conv1.conv.out_channels == 16
    assert model.stages[3].blocks[0].fc1.conv.out_channels == 32
    assert model(torch.rand(2, 3, 16, 16))[0].shape == (2, 16, 1, 1)


@pytest.mark.parametrize('arch, message', [
    ('16m', "unknown arch '16m'.*15m"),
    (dict(embed_dims=(8, 8, 16, 16)), 'needs embed_dims and depths'),
    (dict(SMALL, heads=2), 'needs embed_dims and depths.*heads'),
    (dict(embed_dims=(8, 16, 16), depths=4), '4 positive channel counts'),
    (dict(embed_dims=(0, 8, 16, 16), depths=4), '4 positive channel counts'),
    (dict(embed_dims=(7, 8, 16, 16), depths=4), 'must be even'),
    (dict(embed_dims=(8, 8, 16, 16), depths=3), 'at least one block'),
    (dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1)), 'at least one block'),
    (dict(embed_dims=(8, 8, 16, 16), depths=(1, 1), num_heads=3), '3 heads'),
])
def test_unusable_arch_is_refused(arch, message):
    with pytest.raises(ValueError, match=message):
        QSDTransformer(arch)


@pytest.mark.parametrize('kwargs, message', [
    (dict(out_indices=()), 'out_indices must name taps'),
    (dict(out_indices=(1, 5)), 'out_indices must name taps'),
    (dict(out_indices=(-1, )), 'out_indices must name taps'),
    (dict(stage4_stride=4), 'stage4_stride must be 1 or 2'),
    (dict(frozen_stages=5), 'frozen_stages must be'),
    (dict(frozen_stages=-2), 'frozen_stages must be'),
    (dict(weight_bits=5), 'bits must be'),
    (dict(time_steps=0), 'time_steps must be'),
])
def test_unusable_argument_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        QSDTransformer(SMALL, **kwargs)


# Taps -----------------------------------------------------------------------
@pytest.mark.parametrize('stage4_stride', [1, 2])
def test_taps_have_the_declared_channels_and_strides(stage4_stride):
    model = QSDTransformer(
        'tiny', out_indices=TAPS, stage4_stride=stage4_stride).eval()
    with torch.no_grad():
        maps = model(torch.rand(2, 3, 96, 64))
    assert model.channels == (8, 16, 48, 96, 128)
    assert model.strides == (2, 4, 8, 16, 16 * stage4_stride)
    assert [x.shape for x in maps] == [
        (2, c, 96 // s, 64 // s)
        for c, s in zip(model.channels, model.strides)
    ]


@pytest.mark.parametrize('size', [(33, 47), (1, 1), (5, 70)])
def test_odd_sizes_round_up(size):
    with torch.no_grad():
        maps = small_model(stage4_stride=2).eval()(torch.rand(1, 3, *size))
    h, w = size
    for x, stride in zip(maps, (2, 4, 8, 16, 32)):
        assert x.shape[2:] == (-(-h // stride), -(-w // stride))


def test_stage4_stride_2_takes_the_same_weights():
    model = small_model()
    strided = small_model(seed=1, stage4_stride=2)
    strided.load_state_dict(model.state_dict())  # strict
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps, strided_maps = model.eval()(x), strided.eval()(x)
    for a, b in zip(maps[:4], strided_maps[:4]):
        assert torch.equal(a, b)
    assert maps[4].shape[2:] == (4, 4)
    assert strided_maps[4].shape[2:] == (2, 2)


@pytest.mark.parametrize('out_indices', [(0, ), (1, 3), (4, 0), (2, 3, 4)])
def test_out_indices_choose_and_order_the_taps(out_indices):
    model = small_model().eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        maps = model(x)
        model.out_indices = out_indices
        chosen = model(x)
    assert isinstance(chosen, tuple) and len(chosen) == len(out_indices)
    for i, y in zip(out_indices, chosen):
        assert torch.equal(y, maps[i])


def test_out_indices_may_be_one_number():
    assert small_model(out_indices=3).out_indices == (3, )


def test_stages_behind_the_last_tap_do_not_run():
    model = small_model(out_indices=(1, 2)).train()
    before = statistics(model.stages[3])
    model(torch.rand(2, 3, 32, 32))
    assert_same(statistics(model.stages[3]), before)


def test_other_input_channels():
    model = small_model(in_channels=2)
    assert model(torch.rand(2, 2, 16, 16))[0].shape == (2, 4, 8, 8)


# Time -----------------------------------------------------------------------
def test_static_image_equals_repeated_frames():
    model = small_model(time_steps=2).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        image = model(x)
        frames = model(x.unsqueeze(1).repeat(1, 2, 1, 1, 1))
    for a, b in zip(image, frames):
        assert a.shape[0] == 2
        assert torch.equal(a, b)


def test_without_leak_time_repeats_the_same_answer():
    kwargs = dict(neuron=dict(type='mmqsdt.IELIF', leak=0.))
    once = small_model(**kwargs).double().eval()
    twice = small_model(time_steps=2, **kwargs).double().eval()
    x = torch.rand(2, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        # 1e-9: convolutions of another batch size sum in another order.
        for a, b in zip(once(x), twice(x)):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_membrane_carries_over_from_frame_to_frame():
    model = small_model(time_steps=2).eval()
    frames = torch.rand(1, 2, 3, 32, 32)
    with torch.no_grad():
        forward, backward = model(frames), model(frames.flip(1))
    # The stem has no neuron, and the mean over time no order: what differs
    # differs through the membranes alone.
    for a, b in zip(forward, backward):
        assert not torch.allclose(a, b, atol=1e-3)


def test_frames_of_different_samples_do_not_mix():
    model = small_model(time_steps=2).double().eval()
    frames = torch.rand(3, 2, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        together = model(frames)
        alone = [model(f.unsqueeze(0)) for f in frames]
    # 1e-9: convolutions of another batch size sum in another order.
    for i, x in enumerate(together):
        expected = torch.cat([maps[i] for maps in alone])
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('shape, message', [
    ((1, 3, 3, 16, 16), '3 frames.*time_steps=2'),
    ((1, 1, 3, 16, 16), '1 frames.*time_steps=2'),
    ((1, 2, 1, 16, 16), '1 channels.*in_channels=3'),
    ((1, 4, 16, 16), '4 channels.*in_channels=3'),
    ((3, 16, 16), r'got shape \(3, 16, 16\)'),
])
def test_wrong_input_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        small_model(time_steps=2)(torch.rand(shape))


# The ANN counterpart --------------------------------------------------------
def test_ann_counterpart_shares_keys_and_weights():
    snn = small_model()
    ann = small_model(
        seed=1, weight_bits=None, neuron=dict(type='ReLU')).eval()
    assert not any(isinstance(m, IELIF) for m in ann.modules())
    state = {
        k: v
        for k, v in snn.state_dict().items() if not k.endswith('step_size')
    }
    assert ann.state_dict().keys() == state.keys()
    assert len(snn.state_dict()) > len(state)
    ann.load_state_dict(state)
    other = small_model(seed=2)
    other.load_state_dict(ann.state_dict())  # derives the step sizes

    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        stem = ann.stages[0].downsample
        expected = stem.norm(
            nn.functional.conv2d(
                x, snn.stages[0].downsample.conv.weight,
                snn.stages[0].downsample.conv.bias, 2, 3))
        assert torch.equal(stem(x), expected)
        for a, b in zip(snn.eval()(x), other.eval()(x)):
            assert torch.equal(a, b)
        assert not torch.allclose(ann(x)[4], other(x)[4], atol=1e-2)


def test_quantised_network_trains_every_parameter():
    model = small_model()
    for layer in model.modules():
        if isinstance(layer, LSQConv2d):
            assert layer.bits == 4
    sum(x.square().mean() for x in model(torch.rand(2, 3, 32, 32))).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None]
    assert not dead


# Checkpointing, freezing, drop path -----------------------------------------
@pytest.mark.parametrize('kwargs', [
    dict(),
    dict(drop_path_rate=0.5),
    dict(time_steps=2),
    dict(norm_eval=True),
    dict(frozen_stages=1),
])
def test_with_cp_changes_nothing(kwargs):
    x = torch.rand(2, 3, 32, 32)
    results = []
    for with_cp in (False, True):
        model = small_model(with_cp=with_cp, **kwargs).train()
        torch.manual_seed(1)  # of the dropped paths
        maps = model(x)
        sum(m.square().mean() for m in maps).backward()
        grads = {
            n: p.grad
            for n, p in model.named_parameters() if p.grad is not None
        }
        results.append((dict(enumerate(maps)), grads, statistics(model)))
    for plain, recomputed in zip(*results):
        assert_same(recomputed, plain)


def test_with_cp_keeps_fewer_tensors():
    x = torch.rand(2, 3, 32, 32)
    kept = []
    for with_cp in (False, True):
        model = small_model(with_cp=with_cp)
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
                lambda t, sizes=sizes: sizes.update(
                    {t.data_ptr(): t.nbytes}) or t, lambda t: t):
            maps = model(x)
        kept.append(sum(sizes.values()))
        del maps
    assert kept[1] < 0.5 * kept[0]


def test_frozen_stages_do_not_change_and_others_do():
    model = small_model(frozen_stages=2).train()
    before = deepcopy(model.state_dict())
    for i, stage in enumerate(model.stages):
        assert all(p.requires_grad == (i > 2) for p in stage.parameters())
        assert all(m.training == (i > 2) for m in stage.modules())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(x.square().mean() for x in model(torch.rand(2, 3, 32, 32))).backward()
    optimizer.step()
    changed = {
        int(k.split('.')[1])
        for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert changed == {3, 4}


def test_nothing_is_frozen_by_default():
    model = small_model().train()
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())


def test_norm_eval_keeps_the_statistics_while_training():
    model = small_model(norm_eval=True, drop_path_rate=0.5).train()
    before = statistics(model)
    model(torch.rand(2, 3, 32, 32))
    assert_same(statistics(model), before)
    assert not any(m.training for m in batch_norms(model))
    assert all(
        m.training for m in model.modules() if isinstance(m, DropPath))
    assert all(m.weight.requires_grad for m in batch_norms(model))


def test_drop_path_grows_linearly_over_the_blocks():
    model = QSDTransformer('tiny', drop_path_rate=0.7)
    rates = [b.drop_path.drop_prob for s in model.stages for b in s.blocks]
    # 1e-6: tenths are rounded, at worst to float32.
    assert rates == pytest.approx([0.1 * i for i in range(8)], abs=1e-6)


def test_drop_path_acts_in_training_and_not_in_evaluation():
    plain = small_model().train()
    dropping = small_model(drop_path_rate=0.9).train()
    x = torch.rand(4, 3, 32, 32)
    a, b = plain(x), dropping(x)
    assert torch.equal(a[0], b[0])  # the first block is never dropped
    assert not torch.allclose(a[4], b[4])
    plain.eval(), dropping.eval()
    dropping.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for a, b in zip(plain(x), dropping(x)):
            assert torch.equal(a, b)


@pytest.mark.parametrize('stage', [1, 3])
def test_drop_path_drops_every_branch_of_a_block(stage):
    block = small_model().stages[stage].blocks[0].train()
    x = torch.rand(2, *{1: (8, 8, 8), 3: (16, 4, 4)}[stage])
    assert not torch.equal(block(x), x)
    block.drop_path.drop_prob = 1 - 1e-6
    assert torch.equal(block(x), x)


# Pretrained weights in the three frameworks ---------------------------------
@pytest.fixture(scope='module')
def classifier_checkpoint(tmp_path_factory):
    """As training of the 'tiny' classifier leaves it."""
    torch.manual_seed(5)
    state = {
        f'backbone.{k}': v
        for k, v in QSDTransformer('tiny').state_dict().items()
    }
    state['head.fc.weight'] = torch.rand(10, 128)
    path = tmp_path_factory.mktemp('pretrained') / 'epoch_1.pth'
    torch.save(dict(meta=dict(epoch=1), state_dict=state), path)
    return path, state


@pytest.fixture
def log():
    """What is logged meanwhile, one string an entry."""
    lines = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


FRAMEWORK_CONFIGS = dict(
    mmpretrain='cls/qsdt_digits.py',
    mmdet='det/qsdt_maskrcnn_digits.py',
    mmseg='seg/qsdt_fpn_digits.py')


def build_model(framework, checkpoint):
    pytest.importorskip(framework)
    cfg = Config.fromfile(get_config_path(FRAMEWORK_CONFIGS[framework]))
    # Those of the checkpoint.
    cfg.model.backbone.arch = 'tiny'
    cfg.model.backbone.neuron = dict(type='mmqsdt.IELIF')
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=str(checkpoint))
    with DefaultScope.overwrite_default_scope(framework):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('framework', FRAMEWORK_CONFIGS)
def test_pretrained_classifier_fills_the_backbone(framework, log,
                                                  classifier_checkpoint):
    path, state = classifier_checkpoint
    model = build_model(framework, path)
    model.init_weights()
    backbone = model.backbone.state_dict()
    for key, value in backbone.items():
        assert torch.equal(value, state[f'backbone.{key}']), key
    found = [x for x in log if f'keys loaded from {path}' in x]
    n = len(backbone)
    assert found == [
        f'QSDTransformer: {n} of {n} keys loaded from {path}'
    ]


@pytest.mark.parametrize('framework', FRAMEWORK_CONFIGS)
def test_pretrained_checkpoint_without_a_match_is_an_error(
        framework, tmp_path):
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict={'layer1.weight': torch.rand(2)}), path)
    model = build_model(framework, path)
    with pytest.raises(ValueError, match='not of QSDTransformer: no key'):
        model.init_weights()


def test_pretrained_takes_a_prefix_and_loads_once(tmp_path):
    source = small_model(seed=3)
    path = tmp_path / 'student.pth'
    torch.save({f'student.{k}': v
                for k, v in source.state_dict().items()}, path)
    model = small_model(
        init_cfg=dict(
            type='Pretrained', checkpoint=str(path), prefix='student'))
    model.init_weights()
    assert_same(model.state_dict(), source.state_dict())
    with torch.no_grad():
        model.stages[0].downsample.conv.bias.zero_()
    model.init_weights()  # what was trained meanwhile stays
    assert model.stages[0].downsample.conv.bias.count_nonzero() == 0


def test_step_sizes_follow_weights_that_init_weights_changed():
    model = small_model(
        init_cfg=dict(type='Constant', layer='Conv2d', val=0.03))
    model.init_weights()
    layers = [m for m in model.modules() if isinstance(m, LSQConv2d)]
    assert len(layers) == 5 * 4 + 14 * 2 + 5
    for layer in layers:
        # 1e-6 relative: the mean of equal numbers rounds once more.
        torch.testing.assert_close(
            layer.step_size, torch.full_like(layer.step_size,
                                             2 * 0.03 / 7**0.5),
            rtol=1e-6, atol=0)


def test_published_checkpoint_loads_as_pretrained(state, tmp_path, log):
    path = tmp_path / 'published.pth'
    torch.save(dict(model=state, epoch=3), path)
    model = QSDTransformer(
        published_arch(state),
        init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    assert_same(
        model.state_dict(),
        convert_reference_checkpoint(state, backbone_only=True))
    assert sum('keys loaded' in x and 'MISSING' not in x for x in log) == 1


# Training -------------------------------------------------------------------
def test_one_dimensional_parameters_take_no_weight_decay():
    cfg = Config.fromfile(
        get_config_path('_base_/schedules/digits_adamw.py'))
    assert cfg.optim_wrapper.optimizer.weight_decay > 0
    model = small_model()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(p): name for name, p in model.named_parameters()}
    decay = {
        names[id(p)]: group['weight_decay']
        for group in wrapper.optimizer.param_groups for p in group['params']
    }
    assert decay.keys() == set(names.values())
    quantised = {
        f'{name}.weight'
        for name, m in model.named_modules() if isinstance(m, LSQConv2d)
    }
    assert {name for name, value in decay.items() if value} == quantised
    free = [name for name, value in decay.items() if not value]
    for kind in ('norm', 'bias', 'step_size', 'layer_scale'):
        assert any(kind in name for name in free), kind


def test_inner_neurons_are_everywhere_or_nowhere():
    def count(inner_neurons):
        model = QSDTransformer('tiny', inner_neurons=inner_neurons)
        return sum(isinstance(m, IELIF) for m in model.modules())

    # 4 SepConvs have one inside, 4 attention blocks four RepConvs with two.
    assert count(True) - count(False) == 4 + 4 * 4 * 2
    neurons = [
        m for m in QSDTransformer('tiny', inner_neurons=True,
                                  time_steps=2).modules()
        if isinstance(m, IELIF)
    ]
    assert {m.time_steps for m in neurons} == {2}


def test_attention_scale():
    x = torch.rand(1, 3, 64, 64)
    plain = QSDTransformer('tiny').eval()
    scaled = QSDTransformer('tiny', attention_scale=1 / 32).eval()
    scaled.load_state_dict(plain.state_dict())
    products = []
    for model in (plain, scaled):
        attention = model.stages[3].blocks[0].attn
        with patch.object(attention.attn_neuron, 'forward',
                          side_effect=lambda y: products.append(y) or y):
            model(x)
    assert torch.equal(products[0], products[1] * 8)  # powers of two
    with pytest.raises(ValueError, match='attention_scale must be positive'):
        QSDTransformer('tiny', attention_scale=0.)


def test_a_backbone_in_one_line():
    backbone = mmqsdt.create_backbone('tiny', (2, 4), stage4_stride=2)
    outputs = backbone(torch.rand(1, 3, 64, 64))
    assert backbone.out_channels == tuple(x.shape[1] for x in outputs)
    assert backbone.out_strides == tuple(64 // x.shape[2] for x in outputs)
    neurons = [m for m in backbone.modules() if isinstance(m, mmqsdt.IELIF)]
    assert neurons and all(m.log_threshold is not None for m in neurons)
    published = mmqsdt.create_backbone(
        'tiny', neuron=dict(type='mmqsdt.IELIF'))
    assert published.out_channels == (16, 48, 96, 128)
    assert not any(m.log_threshold is not None for m in published.modules()
                   if isinstance(m, mmqsdt.IELIF))


def test_levels_alone_make_a_neuron():
    """As --cfg-options model.backbone.neuron.levels=8 does."""
    backbone = QSDTransformer('tiny', neuron=dict(levels=8))
    neurons = [m for m in backbone.modules() if isinstance(m, mmqsdt.IELIF)]
    assert {m.levels for m in neurons} == {8}
    named = QSDTransformer(
        'tiny', neuron=dict(type='mmqsdt.IELIF', levels=8))
    assert [m.amplitude for m in neurons] == [
        m.amplitude for m in named.modules() if isinstance(m, mmqsdt.IELIF)]
