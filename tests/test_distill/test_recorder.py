import pytest
import torch
from torch import nn

from mmqsdt import QSDTransformer
from mmqsdt.distill import Recorder, find_taps
from mmqsdt.distill.recorder import record

ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(2, 1), num_heads=2)


def test_taps_of_a_qsd_transformer_are_what_attention_reads():
    model = nn.Module()
    model.backbone = QSDTransformer(ARCH).eval()
    taps = find_taps(model)
    assert [tap.paths['q'] for tap in taps] == [
        f'backbone.stages.{i}.attn.q_neuron'
        for i in ('3.blocks.0', '3.blocks.1', '4.blocks.0')]
    recorder = Recorder(model, taps)
    seen = []
    for path in ('3.blocks.0', '3.blocks.1', '4.blocks.0'):
        attn = model.get_submodule(f'backbone.stages.{path}.attn')
        attn.split_heads = lambda x, f=attn.split_heads: (
            seen.append(f(x)), seen[-1])[1]
    recording = record(model.backbone, recorder, torch.rand(2, 3, 64, 48))
    assert recording.grids == [(4, 3)] * 3
    found = [layer[x] for layer in recording.tensors for x in 'qkv']
    assert len(found) == len(seen) == 9
    for x, y in zip(found, seen):  # (B, heads, N, d), (B, heads, d, N)
        assert x.shape == (2, 2, 12, 8)
        assert torch.equal(x.transpose(2, 3), y)


def test_stages_that_do_not_run_have_no_taps():
    assert len(find_taps(QSDTransformer(ARCH, out_indices=(1, 3)))) == 2
    with pytest.raises(ValueError, match='runs no attention layer'):
        find_taps(QSDTransformer(ARCH, out_indices=(2, )))


def test_time_steps_are_averaged():
    model = QSDTransformer(ARCH, time_steps=2).eval()
    recorder = Recorder(model, find_taps(model))
    spikes = []
    model.stages[4].blocks[0].attn.v_neuron.register_forward_hook(
        lambda module, args, output: spikes.append(output))
    recording = record(model, recorder, torch.rand(3, 3, 32, 32))
    mean = spikes[0].unflatten(0, (2, 3)).mean(0)  # (B, C, H, W)
    found = recording.tensors[-1]['v']  # (B, heads, N, d)
    assert torch.equal(found.transpose(2, 3).reshape(mean.shape), mean)


def test_wildcards_tap_a_vit_with_a_class_token():
    models = pytest.importorskip('mmpretrain.models')
    model = models.VisionTransformer(
        dict(embed_dims=24, num_layers=3, num_heads=4,
             feedforward_channels=24), img_size=32, patch_size=8)
    model.eval()  # returns nothing
    taps = find_taps(
        model, dict(qkv='layers.*.attn.qkv', num_extra_tokens=1))
    assert [tap.num_heads for tap in taps] == [4] * 3  # of the module around
    outputs = []
    model.layers[2].attn.qkv.register_forward_hook(
        lambda module, args, output: outputs.append(output))
    recording = record(model, Recorder(model, taps), torch.rand(2, 3, 32, 32))
    assert recording.grids == [None] * 3
    expected = outputs[0].reshape(2, 17, 3, 4, 6)  # as its attention does
    for i, x in enumerate('qkv'):
        assert torch.equal(recording.tensors[2][x],
                           expected[:, 1:, i].transpose(1, 2))


def test_a_list_of_paths_chooses_and_orders_layers():
    model = QSDTransformer(ARCH)
    names = ['stages.4.blocks.0.attn.q_neuron', 'stages.3.*.attn.q_neuron']
    paths = [tap.paths['q'] for tap in find_taps(model, dict(q=names))]
    assert paths == [
        'stages.4.blocks.0.attn.q_neuron', 'stages.3.blocks.0.attn.q_neuron',
        'stages.3.blocks.1.attn.q_neuron']


@pytest.mark.parametrize('taps, message', [
    (dict(), 'must name q, k, v, or qkv'),
    (dict(q='0', qkv='0'), 'must name q, k, v, or qkv'),
    (dict(q='0', heads=2), 'must name q, k, v, or qkv'),
    (dict(q=[]), 'q of teacher_taps is an empty list'),
    (dict(q='9'), "q='9' of teacher_taps matches no module"),
    (dict(q='*', k='0'), "different numbers of modules: {'q': 2, 'k': 1}"),
    (dict(q='0'), 'must give num_heads'),
    (None, 'has 0 QSDTransformer backbones'),
])
def test_unusable_taps_are_refused(taps, message):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(ValueError, match=message):
        find_taps(model, taps, 'teacher')


@pytest.mark.parametrize('layer, heads, message', [
    (nn.Conv2d(3, 6, 1), 4, '6 channels of the tap 0 of the student'),
    (nn.Flatten(), 1, r'expected \(B, C, H, W\).*got \(2, 48\)'),
    (nn.LSTM(4, 4), 1, 'got tuple'),
])
def test_outputs_that_are_no_tokens_are_refused(layer, heads, message):
    model = nn.Sequential(layer)
    taps = find_taps(model, dict(q='0', num_heads=heads), 'student')
    x = torch.rand(2, 3, 4) if isinstance(layer, nn.LSTM) else \
        torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match=message):
        record(model, Recorder(model, taps, 'student'), x)


def test_rows_that_are_no_time_steps_are_refused():
    """Such as the windows of a Swin transformer, or T that nobody named."""
    model = nn.Sequential(nn.Flatten(0, 1))
    x = torch.rand(2, 3, 9, 4)
    taps = dict(q='0', num_heads=1)
    with pytest.raises(ValueError, match='for 2 images and time_steps=1'):
        record(model, Recorder(model, find_taps(model, taps)), x)
    taps = find_taps(model, dict(taps, time_steps=3))
    found = record(model, Recorder(model, taps), x).tensors[0]['q']
    expected = x.flatten(0, 1).unflatten(0, (3, 2)).mean(0)  # time-major
    assert torch.equal(found, expected[:, None])


def test_named_taps_of_a_qsd_transformer_know_its_time_steps():
    model = nn.Module()
    model.backbone = QSDTransformer(ARCH, time_steps=3)
    for name in 'q_neuron', 'q_conv':
        taps = find_taps(model, dict(q=f'backbone.*.{name}'))
        assert [tap.time_steps for tap in taps] == [3] * 3
    assert [tap.time_steps for tap in find_taps(model)] == [3] * 3


def test_a_tap_that_does_not_run_is_refused():
    model = nn.ModuleDict(dict(used=nn.Conv2d(3, 4, 1), idle=nn.ReLU()))
    recorder = Recorder(model, find_taps(
        model, dict(q='idle', num_heads=1), 'student'), 'student')
    with pytest.raises(ValueError, match='idle of the student did not run'):
        record(model.used, recorder, torch.rand(1, 3, 2, 2))


def test_nothing_is_kept_unless_asked_for_and_close_takes_the_hooks_off():
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    recorder = Recorder(model, find_taps(model, dict(q='0', num_heads=2)))
    model(torch.rand(1, 3, 2, 2))
    assert not recorder.outputs
    recorder.start()
    model(torch.rand(1, 3, 2, 2))
    recorder.stop(1)
    assert not recorder.outputs
    recorder.close()
    assert not model[0]._forward_hooks
