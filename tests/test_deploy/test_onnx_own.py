"""Any network as ONNX: by its program, and rewrites of its layers."""

import pytest
import torch
from networks import MAP, NETWORKS, as_if_trained, assert_written, ended
from torch import nn
from torch.nn import functional as F

from mmqsdt.deploy.program import WeightLayer, find_layers
from mmqsdt.layers import IELIF, LSQConv2d, RepConv

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from mmqsdt.deploy.onnx_graph import (  # noqa: E402
    Options,
    compare_onnx,
    executed_nodes,
    export_onnx,
)
from mmqsdt.deploy.onnx_graph.graph import Graph, Value  # noqa: E402
from mmqsdt.deploy.onnx_graph.layers import Layer, Weights  # noqa: E402
from mmqsdt.deploy.onnx_graph.modules import (  # noqa: E402
    joined,
    without_border,
)


class Scaled(nn.Module):
    """Channels by a factor each, all by a number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(-.5, 1.5, 8).view(8, 1, 1))

    def forward(self, x):
        return .5 * (x * self.scale)


# Networks whose operations the graph has; none of their units is ours.
OWN = {name: NETWORKS[name][0] for name in (
    'recipe', 'pre-activation', 'norm first', 'residual', 'concatenation',
    'other amplitudes', 'nearest', 'norm', 'deconv')} | {
        'pool': lambda: ended(nn.MaxPool2d(3, 2, 1)),
        'scaled': lambda: ended(Scaled()), 'bias': lambda: nn.Sequential(
            IELIF(), LSQConv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), Scaled(),
            IELIF(3), LSQConv2d(8, 8, 1, groups=2))}


@pytest.mark.parametrize('form', ['integer', 'float'])
@pytest.mark.parametrize('name', OWN)
def test_networks_of_ones_own(name, form):
    model = as_if_trained(OWN[name]())
    model.in_channels = 8
    spiking = name not in ('other amplitudes', 'norm', 'scaled')
    # Without a layer that reads spikes there is no integer form beside it.
    if spiking or form == 'float':
        report = compare_onnx(model, torch.randn(MAP), Options(form))
        assert_written(report)
        assert report.elements > 1000


@pytest.mark.parametrize('name, kinds', [
    ('concatenation', dict(MatMulIntegerToFloat=3, Conv=0)),
    ('pool', dict(MatMulIntegerToFloat=1, Conv=0)),
    ('nearest', dict(MatMulIntegerToFloat=1, Conv=0)),
    ('recipe', dict(Conv=1, QLinearConv=1)),
    ('bias', dict(QLinearConv=0)),
    ('pre-activation', dict(QLinearConv=1))])
def test_their_kernels(name, kinds, tmp_path):
    model = as_if_trained(OWN[name]())
    model.in_channels = 8
    nodes = executed_nodes(export_onnx(model, tmp_path / 'model.onnx')[0])
    nodes['Conv'] += nodes['FusedConv']
    assert {kind: nodes[kind] for kind in kinds} == kinds


def test_what_has_something_of_its_own_is_refused(tmp_path):
    """Its hook would be lost, or cannot be written."""
    model = as_if_trained(OWN['recipe']())
    model.in_channels = 8
    model[1].conv.register_forward_hook(lambda m, args, y: y.sin())
    with pytest.raises(ValueError, match='the function conv2d .*--part'):
        export_onnx(model, tmp_path / 'model.onnx')


# Rewrites: the same numbers from other weights.


def weights(entry):
    return Weights.of(entry, '')


def apply(w, x):
    """The layer in float64."""
    return F.conv2d(x, torch.from_numpy(w.float_weight()),
                    torch.from_numpy(w.bias), w.stride, w.padding,
                    w.dilation, w.groups)


def test_the_border_of_rep_conv():
    unit = as_if_trained(RepConv(8)).double()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    parts = [weights(entry) for entry in find_layers(unit, x).values()]
    assert [w.padding for w in parts] == [(1, 1), (0, 0), (0, 0)]
    without = without_border(*parts)
    assert not without[0].bias.any() and without[1].padding == (1, 1)
    for weights_of in (parts, without):
        y = x
        for w in weights_of:
            y = apply(w, y)
        torch.testing.assert_close(y, unit(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize('groups', [1, 8])
def test_layers_side_by_side(groups):
    model = nn.ModuleList(LSQConv2d(8, 8, 3, padding=1, groups=groups)
                          for _ in range(3))
    as_if_trained(model).double()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    parts = [weights(WeightLayer(layer)) for layer in model]
    together = apply(joined(parts), x if groups == 1 else torch.cat([x] * 3,
                                                                    1))
    torch.testing.assert_close(
        together, torch.cat([layer(x) for layer in model], 1), rtol=0,
        atol=1e-12)


def test_norms_are_part_of_a_layer():
    model = as_if_trained(nn.Sequential(
        LSQConv2d(4, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8))).double()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    entry, = find_layers(model, x).values()
    assert entry.norms == (model[1], model[2])
    torch.testing.assert_close(apply(weights(entry), x), model(x), rtol=0,
                               atol=1e-12)


def test_a_layer_scale_is_part_of_a_layer():
    layer = as_if_trained(LSQConv2d(4, 8, 3)).double()
    gain = torch.linspace(-1, 2, 8).double()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    source = Value(Graph(), 'x', 4)
    scaled = Layer(source, weights(WeightLayer(layer))) * gain.view(-1, 1, 1)
    assert isinstance(scaled, Layer)
    torch.testing.assert_close(
        apply(scaled.weights, x), layer(x) * gain.view(-1, 1, 1), rtol=0,
        atol=1e-12)


