import pytest
import torch
from shared import ARCH

from experiments.benchmark import Models, alternate
from experiments.benchmark.runners import fold_norms, shutil
from mmqsdt.layers import SpikingNeuron
from mmqsdt.models import QSDTransformer
from mmqsdt.models.counterpart import counterpart_config
from mmqsdt.utils.build import build_model


def test_runners_take_turns():
    order = []
    seconds = alternate(
        dict(a=lambda: order.append('a'), b=lambda: order.append('b')), 3, 1)
    assert ''.join(order) == 'ab' + 'ab' * 3
    assert [len(s) for s in seconds.values()] == [3, 3]


@pytest.mark.parametrize('task', ['cls', 'det', 'seg'])
def test_the_counterpart_has_no_neuron_and_float_weights(task, load):
    cfg = load(task)
    other = build_model(counterpart_config(cfg))
    assert not any(isinstance(m, SpikingNeuron) for m in other.modules())
    assert not any(getattr(m, 'bits', None) for m in other.modules())
    assert any(isinstance(m, SpikingNeuron)
               for m in build_model(cfg).modules())


@pytest.mark.parametrize('options', [
    dict(weight_bits=None, neuron=dict(type='ReLU')),
    dict(weight_bits=None, neuron=dict(type='ReLU'), inner_neurons=True),
    dict()
], ids=str)
def test_folded_norms_change_no_output(options):
    model = QSDTransformer(ARCH, **options).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=.3)
            torch.nn.init.uniform_(module.running_var, .5, 2.)
            torch.nn.init.normal_(module.bias, std=.3)
    model = model.double()
    folded = fold_norms(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d)
                   for m in folded.modules())
    x = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    with torch.no_grad():
        # The same operations in another order, in float64.
        torch.testing.assert_close(
            folded(x), model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('task', ['cls', 'det', 'seg'])
def test_runners_of_whole_models(task, load, monkeypatch):
    cfg = load(task)
    monkeypatch.setattr(shutil, 'which', lambda _: None)
    names = ['float', 'fast', 'ann', 'ann_folded', 'ann_compiled']
    models = Models(cfg, names)
    with torch.no_grad():
        runners = models.runners(names, 1, 64)
        outs = {name: run() for name, run in runners.items()}
    assert set(runners) == set(names) - {'ann_compiled'}
    assert 'compiler' in models.skipped['ann_compiled'] or task != 'cls'
    if task != 'det':
        torch.testing.assert_close(  # float32, another order
            outs['ann_folded'], outs['ann'], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_heads_behind_onnx_runtime(task, load):
    """Features by ONNX Runtime, heads by PyTorch: the same predictions."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    cfg = load(task)
    cfg.model.backbone.arch = dict(
        embed_dims=cfg.model.neck.in_channels, depths=(1, 1))
    if task == 'seg':
        cfg.model.backbone.arch.embed_dims = (32, 64, 96, 128)
    names = ['integer', 'ann', 'onnx', 'ann_onnx']
    models = Models(cfg, names)
    with torch.no_grad():
        outs = {n: run() for n, run in models.runners(names, 1, 64).items()}
    assert not models.skipped
    for one, other in (('onnx', 'integer'), ('ann_onnx', 'ann')):
        if task == 'seg':
            torch.testing.assert_close(  # float32, another order
                outs[one], outs[other], rtol=1e-4, atol=1e-4)
        else:  # of random weights: boxes, scores near those of chance
            found, = outs[one]
            expected, = outs[other]
            torch.testing.assert_close(
                found.pred_instances.scores, expected.pred_instances.scores,
                rtol=1e-3, atol=1e-4)
