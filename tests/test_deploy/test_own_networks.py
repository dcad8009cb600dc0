"""Networks of one's own have the same forms: none of their units is ours."""

import pytest
import torch
from networks import NETWORKS, SPIKING, as_if_trained, assert_equal_forms
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmqsdt.deploy import describe, forms, to_spikes
from mmqsdt.deploy.fold import FoldedLayer
from mmqsdt.layers import IELIF, ConvUnit, LSQConv2d, LSQLinear


def test_units_may_share_a_layer(exact):
    units = [ConvUnit(8, 8, 1, dict(type='mmqsdt.IELIF')) for _ in range(2)]
    units[1].conv = units[0].conv
    model = as_if_trained(nn.Sequential(*units)).double()
    x = torch.randn(2, 8, 16, 16, dtype=torch.float64)
    assert_equal_forms(model, exact(model), x)


class TwoReaders(nn.Module):
    """A unit, and a stock conv that reads the same spikes."""

    def __init__(self):
        super().__init__()
        self.unit = ConvUnit(8, 8, 1, dict(type='mmqsdt.IELIF'))
        self.stock = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.unit(x) + self.stock(self.unit.neuron(x))


class Pooled(ConvUnit):
    """In bitwise slots, the largest slot is not of the largest count."""

    def forward(self, x):
        return self.norm(self.conv(F.max_pool2d(self.neuron(x), 2)))


@pytest.mark.parametrize('model', [
    TwoReaders(), Pooled(8, 8, 3, dict(type='mmqsdt.IELIF'))], ids=str)
def test_units_with_more_readers_or_a_forward_of_their_own(model, exact):
    model = as_if_trained(model).double()
    x = torch.randn(2, 8, 16, 16, dtype=torch.float64)
    assert_equal_forms(model, exact(model), x)


@pytest.mark.parametrize('name', SPIKING)
def test_networks_of_ones_own(name, exact):
    builder, shape, _ = NETWORKS[name]
    model = as_if_trained(builder()).double()
    x = torch.randn(shape, dtype=torch.float64)
    other = exact(model, inputs=x)
    assert_equal_forms(model, other, torch.randn_like(x))
    assert describe(other) == describe(model, x)
    fed = {d.name for d in describe(other)
           if d.reads == 'spike' and d.bits is not None}
    assert fed == {name for name, m in other.named_modules()
                   if isinstance(m, FoldedLayer) and m.levels is not None}


@pytest.mark.parametrize('name', SPIKING)
@pytest.mark.parametrize('encoding', ['thermometer', 'bitwise'])
def test_their_layers_multiply_binary_spikes(name, encoding):
    builder, shape, _ = NETWORKS[name]
    other = to_spikes(as_if_trained(builder()), encoding, torch.randn(shape))
    read = {}
    for path, module in other.named_modules():
        if isinstance(module, FoldedLayer) and module.levels is not None:
            operate = module.operate

            def operated(x, weight, path=path, operate=operate):
                read.setdefault(path, set()).update(x.unique().tolist())
                return operate(x, weight)

            module.operate = operated
    with torch.no_grad():
        other(torch.randn(shape))
    assert read and all(values == {0., 1.} for values in read.values())


class Turned(nn.Module):
    """Spikes for some inputs, not for others."""

    def __init__(self):
        super().__init__()
        self.neuron, self.conv = IELIF(), LSQConv2d(4, 4, 1)
        self.rare = LSQConv2d(4, 4, 1)

    def forward(self, x):
        if len(x) == 1:
            return self.conv(self.neuron(x))
        return self.conv(x) if len(x) == 2 else self.rare(self.neuron(x))


def test_another_way_at_run_time_is_an_error_that_names_both(convert):
    other = convert(Turned())
    other(torch.randn(1, 4, 8, 8))
    other = convert(Turned())
    with pytest.raises(ValueError, match='conv read spikes of neuron when '
                       'the model was traced'):
        other(torch.randn(2, 4, 8, 8))
    with pytest.raises(ValueError, match='rare did not run when the model '
                       'was traced'):
        other(torch.randn(3, 4, 8, 8))


class OwnForward(LSQConv2d):
    """Nobody knows what it computes."""

    def forward(self, x):
        return super().forward(x) * 2


def test_layers_with_a_forward_of_their_own_stay_and_are_named(exact,
                                                               monkeypatch):
    lines = []
    monkeypatch.setattr(forms, 'print_log',
                        lambda line, *_: lines.append(line))
    model = as_if_trained(nn.Sequential(
        IELIF(), OwnForward(8, 8, 1), nn.BatchNorm2d(8), IELIF(),
        LSQConv2d(8, 8, 1))).double()
    x = torch.randn(2, 8, 16, 16, dtype=torch.float64)
    other = exact(model)
    assert len(lines) == 1 and lines[0].endswith(
        ': 1 (it has a forward of its own)')
    assert isinstance(other[1], OwnForward)
    assert_equal_forms(model, other, x)


class Tied(nn.Module):
    """A layer whose weights something else takes."""

    def __init__(self):
        super().__init__()
        self.neuron, self.neuron2 = IELIF(), IELIF()
        self.fc, self.last = LSQLinear(8, 8), LSQLinear(8, 8)

    def forward(self, x):
        y = self.neuron2(self.fc(self.neuron(x)))
        return F.linear(self.last(y), self.fc.weight.t())


def test_layers_whose_weights_are_read_elsewhere_stay(exact):
    model = as_if_trained(Tied()).double()
    x = torch.randn(20, 8, 8, dtype=torch.float64)
    other = exact(model)
    assert isinstance(other.fc, LSQLinear)
    assert isinstance(other.last, FoldedLayer)
    assert_equal_forms(model, other, x)


def test_a_model_whose_neurons_no_layer_reads_is_refused(convert):
    model = nn.Sequential(IELIF(), nn.AvgPool2d(2), LSQConv2d(4, 4, 1))
    with pytest.raises(ValueError, match='no weight layer of this model'):
        convert(model)


class Products(TorchDispatchMode):
    """Which values batched matrix products read, operand by operand."""

    def __init__(self):
        super().__init__()
        self.read = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.bmm.default:
            self.read.append([set(x.unique().tolist()) for x in args])
        return function(*args, **kwargs or {})


@pytest.mark.parametrize('name', ['attention', 'quadratic attention',
                                  'einsum'])
@pytest.mark.parametrize('encoding', ['thermometer', 'bitwise'])
def test_their_attention_multiplies_binary_spikes(name, encoding):
    builder, shape, _ = NETWORKS[name]
    model, x = as_if_trained(builder()), torch.randn(shape)
    other = to_spikes(model, encoding, x)
    other.qkv.operate = other.proj.operate = lambda x, weight: F.linear(
        x, weight)
    with torch.no_grad(), Products() as products:
        other(x)
    # Those that count the operations read how many spikes a count has.
    binary = [read for read in products.read
              if any(values <= {0., 1.} for values in read)]
    slots = dict(thermometer=(4, 3), bitwise=(3, 2))[encoding]
    assert len(binary) >= slots[0] * slots[1] + slots[0]
    assert other.slot_products.operations['product'] > 0
