"""ONNX files do what the model does, on ONNX Runtime's integer kernels."""

import builtins
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from networks import FLOAT32
from networks import assert_written as assert_equal
from shared import ARCH
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmqsdt.checkpoints.packing import pack
from mmqsdt.deploy import FormReport, to_integer
from mmqsdt.layers import IELIF
from mmqsdt.utils.build import build_model

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from mmqsdt.deploy.onnx_graph import (  # noqa: E402
    OPSETS,
    Options,
    compare_onnx,
    executed_nodes,
    export,
    export_onnx,
    layers,
    network_outputs,
    open_session,
    region_outputs,
    run_onnx,
)
from mmqsdt.deploy.onnx_graph.requantize import (  # noqa: E402
    requantize,
    sum_range,
    tie_free_step,
)
from mmqsdt.deploy.onnx_graph.runtime import compare  # noqa: E402

ROOT = Path(__file__).parents[2]
SIDES = dict(cls=32, det=64, seg=64)
RELU = dict(weight_bits=None, neuron=dict(type='ReLU'))


def images(task: str, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, SIDES[task], SIDES[task])


@pytest.mark.parametrize('form', ['integer', 'float'])
@pytest.mark.parametrize('task', ['cls', 'seg', 'det'])
def test_every_count_and_output_is_the_models(build, task, form):
    model = build(task)
    report = compare_onnx(model, images(task), Options(form))
    assert len(report.neurons) > 30
    assert_equal(report)


@pytest.mark.parametrize('settings', [
    dict(weight_bits=1),
    dict(weight_bits='ternary'),
    dict(weight_bits=2),
    dict(weight_bits=8),
    dict(weight_bits=None),
    dict(inner_neurons=True),
    dict(stage4_stride=2, out_indices=(1, 2, 3, 4)),
    dict(neuron=dict(type='mmqsdt.IELIF', rounding='half_even')),
    dict(neuron=dict(type='mmqsdt.IELIF', levels=8, threshold=.1)),
], ids=str)
def test_variants_of_the_backbone(build, settings):
    model = build('cls', **settings)
    assert_equal(
        compare_onnx(model, images('cls'), Options(part='backbone')))


def test_negative_and_zero_gains_of_norms(build):
    model = build('cls')
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            norm.weight.data *= torch.tensor([1., -1.]).repeat(
                len(norm.weight) // 2)
            norm.weight.data[0] = 0
    assert_equal(compare_onnx(model, images('cls')))


def test_the_counterpart_in_float_form(build):
    report = compare_onnx(build('cls', **RELU), images('cls'),
                          Options('float'))
    assert not report.neurons
    assert report.output_error < FLOAT32


def test_a_dense_detector():
    pytest.importorskip('mmdet.models')
    config = Config.fromfile(ROOT / 'configs/det/qsdt_retinanet_digits.py')
    config.model.backbone.arch = ARCH
    config.model.neck.in_channels = [8, 16, 16, 16]
    report = compare_onnx(build_model(config), images('det', 1))
    assert_equal(report)
    assert any('retina_cls' in n.name for n in report.neurons)


def test_a_mask_head_with_quantized_weights():
    pytest.importorskip('mmdet.models')
    head = MODELS.build(
        ConfigDict(
            type='mmqsdt.SpikeFCNMaskHead', num_convs=2, in_channels=8,
            conv_out_channels=8, num_classes=3, weight_bits=4)).eval()
    report = FormReport()
    graph = export.build_region_head(head, 8, 14, Options(counts=True))
    with torch.no_grad():
        compare(report, graph, to_integer(head), region_outputs,
                torch.randn(5, 8, 14, 14))
    assert_equal(report)
    assert len(report.neurons) == 4 and report.elements > 10_000


def test_a_difference_is_reported(build):
    """The comparison itself can fail, and says how far from a threshold."""
    model = build('cls')
    graph = export.build(model, Options(counts=True))
    model.backbone.stages[3].downsample.norm.bias.data += .1
    report = FormReport()
    with torch.no_grad():
        compare(report, graph, model, network_outputs, images('cls'))
    assert report.first_flip.name == 'backbone.stages.3.blocks.0.attn.neuron'
    assert report.first_flip.flip_distance > 1e-2
    with pytest.raises(AssertionError):
        assert_equal(report)


def test_onnx_runtime_fuses_the_graph(build, tmp_path):
    """Four ConvBlocks and two AttentionBlocks."""
    path, = export_onnx(build('cls'), tmp_path / 'model.onnx')
    nodes = executed_nodes(path)
    # SepConv.expand and conv1 of a ConvBlock; fc1 of an AttentionBlock.
    assert nodes['QLinearConv'] == 4 * 2 + 2
    # 3 rows of four 3x3 downsampling convs and four conv2; q, k and v as
    # one, the projection's first conv, fc2; the classifier.
    assert nodes['MatMulIntegerToFloat'] == 3 * (4 + 4) + 2 * 3 + 1
    # Stem; depthwise and project of 4 SepConvs; depthwise of q, k, v and of
    # the projection, and the last conv of this.
    assert nodes['Conv'] + nodes['FusedConv'] == 1 + 4 * 2 + 2 * 3
    assert not nodes['ConvInteger'] and not nodes['DequantizeLinear']


def test_float_form_has_no_integers(build, tmp_path):
    path, = export_onnx(
        build('cls', **RELU), tmp_path / 'model.onnx', Options('float'))
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert not kinds & {'QuantizeLinear', 'DequantizeLinear'}


def test_any_batch_and_size(build, tmp_path):
    model = build('cls')
    path, = export_onnx(model, tmp_path / 'model.onnx')
    session = open_session(path)
    for shape in ((1, 3, 32, 32), (3, 3, 48, 80), (2, 3, 33, 47)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = model(x)
        found = torch.from_numpy(run_onnx(session, x)['logits'])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_static_shapes(build, tmp_path):
    path, = export_onnx(
        build('cls'), tmp_path / 'model.onnx',
        Options(static=True, size=(32, 48)))
    session = open_session(path)
    assert session.get_inputs()[0].shape == [1, 3, 32, 48]
    assert session.get_outputs()[0].shape == [1, 10]


@pytest.mark.parametrize('opset', [OPSETS[0], OPSETS[-1]])
def test_opsets(build, opset):
    options = Options(opset=opset)
    assert_equal(compare_onnx(build('cls'), images('cls', 1), options))


def test_normalisation_in_the_graph(build, tmp_path):
    model = build('cls')
    model.data_preprocessor = MODELS.build(
        ConfigDict(
            type='mmpretrain.ClsDataPreprocessor',
            mean=[120., 110., 100.],
            std=[60., 50., 40.],
            to_rgb=True))
    path, = export_onnx(
        model, tmp_path / 'model.onnx', Options(normalise=True))
    raw = torch.randint(0, 256, (2, 3, 32, 32)).float()
    with torch.no_grad():
        expected = model(model.data_preprocessor(dict(inputs=raw))['inputs'])
    session = open_session(path)
    found = torch.from_numpy(run_onnx(session, raw)['logits'])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert 'BGR' in facts['input'] and facts['form'] == 'integer'
    assert facts['mean'] == '[120.0, 110.0, 100.0]'


def test_files_of_a_two_stage_detector(build, tmp_path):
    files = export_onnx(build('det'), tmp_path / 'model.onnx')
    assert [f.name for f in files] == [
        'model.onnx', 'model.bbox_head.onnx', 'model.mask_head.onnx']
    names = [x.name for x in open_session(files[0]).get_outputs()]
    assert names == [f'{n}{i}' for n in ('rpn_cls', 'rpn_bbox', 'feat')
                     for i in range(5)]
    assert open_session(files[1]).get_inputs()[0].shape == ['number', 16, 7,
                                                            7]


def test_attention_of_huge_images_sums_in_float64(build):
    """Where a sum of counts could reach 2^24."""
    model, huge = build('cls'), Options(size=(4096, 4096))
    assert not doubles(export.build(model, Options()))
    assert doubles(export.build(model, huge)) == 2 * 2
    assert_equal(compare_onnx(model, images('cls', 1), huge))


def doubles(graph: 'onnx.ModelProto') -> int:
    return sum(
        node.op_type == 'Cast' and node.attribute[0].i == onnx.TensorProto.
        DOUBLE for node in graph.graph.node)


# The neuron inside a kernel.


def emitted(sums: np.ndarray, found: tuple, factor: np.ndarray,
            levels: int) -> np.ndarray:
    """What QLinearConv and Clip make of sums n: (channels, n)."""
    _, bias, scale = found
    total = sums * factor[:, None] + bias[:, None]
    y = np.rint(total.astype(np.float32) * scale[:, None])
    return np.clip(y, 0, levels)


@pytest.mark.parametrize('rounding', ['half_up', 'half_even'])
@pytest.mark.parametrize('threshold', [.25, 1., .3])
def test_a_fused_neuron_counts_as_the_plain_one(rounding, threshold):
    """Of every sum there can be, channel by channel."""
    rng = np.random.default_rng(0)
    channels, inputs, levels = 200, 40, 4
    neuron = IELIF(4, threshold, rounding=rounding)
    codes = rng.integers(-8, 8, (channels, inputs, 1, 1)).astype(float)
    scale = np.exp(rng.uniform(-9, 0, channels)).astype(np.float32)
    bias = rng.normal(0, 1, channels).astype(np.float32)
    scale[:3], bias[3:6] = (0, 1e-30, 1e-6), (0, 1e3, -1e3)
    if rounding == 'half_up' and threshold != .3:  # exact ties
        scale[6:40], bias[6:40] = .25 * threshold, threshold / 4
    found = requantize(codes, scale, bias, levels, neuron)
    assert found is not None
    factor = np.abs(found[0].astype(int)).reshape(channels, -1).max(
        1) / np.abs(codes).reshape(channels, -1).max(1)
    assert np.array_equal(found[0], codes * factor.reshape(-1, 1, 1, 1))
    low, high = sum_range(codes, levels)
    sums = np.arange(low.min(), high.max() + 1)
    potential = (torch.from_numpy(sums).float()[None] *
                 torch.from_numpy(scale)[:, None] +
                 torch.from_numpy(bias)[:, None])
    expected = neuron.count(potential).numpy()
    possible = (sums >= low[:, None]) & (sums <= high[:, None])
    found = emitted(sums, found, factor, levels)
    assert np.array_equal(found[possible], expected[possible])
    assert len(np.unique(found[possible])) == 5


def test_without_numbers_for_the_kernel_the_layer_is_not_fused(
        build, monkeypatch, tmp_path):
    monkeypatch.setattr(layers, 'requantize', lambda *_: None)
    model = build('cls')
    assert_equal(compare_onnx(model, images('cls')))
    path, = export_onnx(model, tmp_path / 'model.onnx')
    assert not executed_nodes(path)['QLinearConv']


@pytest.mark.parametrize('threshold', [.25, .5, 1., .3, 1 / 3, 64.])
def test_ties_are_lifted_and_nothing_else(threshold):
    step = np.float32(tie_free_step(threshold, 4, 'half_up'))
    half = np.arange(4, dtype=np.float32) + np.float32(.5)
    ties = half * np.float32(threshold)
    assert (np.rint(ties / step) == half + .5).all()
    assert (np.rint(ties * np.float32(1 - 1e-6) / step) == half - .5).all()
    assert tie_free_step(threshold, 4, 'half_even') == np.float32(threshold)


# What is refused.


@pytest.mark.parametrize('settings, message', [
    (dict(form='int8'), "form must be one of .'integer', 'float'"),
    (dict(part='neck'), 'part must be one of'),
    (dict(opset=13), 'opset must be one of'),
    (dict(size=(0, 9)), 'size must be a height and a width'),
], ids=str)
def test_wrong_options(settings, message):
    with pytest.raises(ValueError, match=message):
        Options(**settings)


def test_wrong_destinations(build, tmp_path):
    with pytest.raises(ValueError, match='must end in .onnx'):
        export_onnx(build('cls'), tmp_path / 'model.pth')
    with pytest.raises(FileNotFoundError, match='is not there; make it'):
        export_onnx(build('cls'), tmp_path / 'missing/model.onnx')


@pytest.mark.parametrize('settings, options, message', [
    (RELU, {}, 'an ANN counterpart has a float form only'),
    (dict(time_steps=2), dict(part='backbone'),
     'one time step .* IELIF with time_steps=2'),
    (dict(neuron=dict(type='mmqsdt.LIF')), {}, 'is a LIF with'),
    (dict(neuron=dict(type='mmqsdt.IELIF', levels=200)), {}, 'up to 127'),
    ({}, dict(normalise=True), 'no data_preprocessor that normalises'),
], ids=str)
def test_models_without_a_graph(build, tmp_path, settings, options, message):
    model = build('cls', **settings)
    with pytest.raises(ValueError, match=message):
        export_onnx(model, tmp_path / 'model.onnx', Options(**options))
    assert not list(tmp_path.iterdir())


def test_an_unknown_layer_is_named(build, tmp_path):
    model = build('cls')
    model.head.fc = nn.Sequential(nn.GELU(), model.head.fc)
    with pytest.raises(ValueError, match='the function gelu .*--part'):
        export_onnx(model, tmp_path / 'model.onnx')
    model.head.fc = Sine()
    with pytest.raises(ValueError, match='Tensor.sin has no translation'):
        export_onnx(model, tmp_path / 'model.onnx')


class Sine(nn.Module):

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


# The tool.


@pytest.fixture
def tool(tmp_path, monkeypatch) -> Callable[..., None]:
    """``tool(*arguments)``: as a user runs it, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, 'argv', ['export_onnx.py', *arguments])
        runpy.run_path(str(ROOT / 'tools/export_onnx.py'),
                       run_name='__main__')

    return run


CONFIG = str(ROOT / 'configs/cls/qsdt_digits.py')


@pytest.mark.parametrize('kind', ['safetensors', 'folder'])
def test_tool_exports_any_checkpoint(tool, tmp_path, capsys, kind):
    pytest.importorskip('mmpretrain.models')
    config = tmp_path / 'small.py'
    config.write_text(
        f'_base_ = {CONFIG!r}\nmodel = dict(\n'
        f'    backbone=dict(arch=dict({ARCH}, _delete_=True)),\n'
        '    head=dict(in_channels=16))\n')
    model = build_model(Config.fromfile(config))
    checkpoint = tmp_path / f'weights.{kind}'
    if kind == 'safetensors':
        pack(model, str(checkpoint))
    else:
        checkpoint.mkdir()
        torch.save(dict(state_dict=model.state_dict()),
                   checkpoint / 'epoch_1.pth')
        (checkpoint / 'last_checkpoint').write_text(
            str(checkpoint / 'epoch_1.pth'))
    tool(str(config), str(checkpoint), 'out.onnx', '--size', '32', '32')
    out = capsys.readouterr().out
    assert 'written: out.onnx' in out and 'spike counts differ' in out
    assert "session = onnxruntime.InferenceSession('out.onnx')" in out
    session = open_session('out.onnx')
    facts = session.get_modelmeta().custom_metadata_map
    assert facts['config'] == 'small.py'
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
    found = torch.from_numpy(run_onnx(session, x)['logits'])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_benchmark_runs_the_file():
    """With the result of the integer form."""
    pytest.importorskip('mmpretrain.models')
    from experiments.benchmark import Models
    config = Config.fromfile(CONFIG)
    config.model.backbone.arch, config.model.head.in_channels = ARCH, 16
    models = Models(config, ['onnx', 'integer'])
    runners = models.runners(['onnx', 'integer'], 1, 32)
    assert not models.skipped
    with torch.no_grad():
        expected = runners['integer']()
    found = torch.from_numpy(runners['onnx']()['logits'])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('arguments, message', [
    (('missing.pth', 'out.onnx'), 'no checkpoint at missing.pth'),
    (('missing.pth', 'out.pb'), 'must end in .onnx'),
    (('missing.pth', 'no/out.onnx'), 'mkdir -p no'),
    (('missing.pth', 'out.onnx', '--opset', '9'), 'opset must be one of'),
], ids=str)
def test_tool_says_what_is_wrong(tool, arguments, message):
    pytest.importorskip('mmpretrain.models')
    with pytest.raises(SystemExit, match=message):
        tool(CONFIG, *arguments)


def test_tool_names_what_to_install(tool, monkeypatch):
    real_import = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name.split('.')[0] == 'onnx':
            raise ImportError('No module named onnx', name='onnx')
        return real_import(name, *args, **kwargs)

    for name in list(sys.modules):
        if name.startswith('mmqsdt.deploy.onnx_graph'):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, '__import__', without_onnx)
    with pytest.raises(SystemExit, match=r'pip install "mmqsdt\[onnx\]"'):
        tool(CONFIG, 'missing.pth', 'out.onnx')
