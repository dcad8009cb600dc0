"""Modules as users write them, where something could go wrong in silence."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from mmcv.cnn import build_conv_layer
from networks import as_if_trained
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from mmqsdt.deploy import describe, forms, to_integer, to_spikes
from mmqsdt.deploy.fold import FoldedLayer
from mmqsdt.layers import IELIF, LSQConv2d, LSQLinear

SHAPE = 2, 4, 6, 6


def double(*shape):
    return torch.randn(shape or SHAPE, dtype=torch.float64)


def conv(size=1):
    return LSQConv2d(4, 4, size, padding=size // 2)


class Twice(nn.Module):
    """Two layers with codes, something of a user's between them."""

    def __init__(self, middle=None, forward=None):
        super().__init__()
        self.neuron1, self.conv1 = IELIF(amplitude=.3), conv(3)
        self.middle = middle or nn.BatchNorm2d(4)
        self.neuron2, self.conv2 = IELIF(threshold=.35), conv()
        self.way = forward

    def forward(self, x):
        if self.way is not None:
            return self.way(self, x)
        x = self.middle(self.conv1(self.neuron1(x)))
        return self.conv2(self.neuron2(x))


def values(outputs):
    """The tensors of outputs, of a user's class too."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Spiking):
        outputs = vars(outputs)
    outputs = outputs.values() if isinstance(outputs, dict) else outputs
    return [x for each in outputs for x in values(each)]


@pytest.fixture(params=[
    to_integer, to_spikes, lambda *a, **k: to_spikes(*a, 'bitwise', **k)
], ids=['integer', 'thermometer', 'bitwise'])
def assert_equal(request):
    """``assert_equal(model)``: its form gives the same, on other inputs."""

    def check(model, x=None, others=()):
        model = as_if_trained(model).double()
        x = double() if x is None else x
        converted = request.param(model, inputs=x)
        for other in (torch.randn_like(x), torch.randn_like(x), *others):
            with torch.no_grad():
                expected = values(model(other))
                for form in (converted, deepcopy(converted)):
                    for a, b in zip(expected, values(form(other)),
                                    strict=True):
                        # float64 sums in another order.
                        torch.testing.assert_close(b, a, rtol=0, atol=1e-11)
        return converted

    return check


# What would be lost if something else took the place of a module.


class OwnNorm(nn.BatchNorm2d):

    def forward(self, x):
        return super().forward(x) * 2 + .1


class OwnConv(LSQConv2d):

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight * 2, bias)


class StillTraining(nn.BatchNorm2d):

    def train(self, mode=True):
        return super().train(True)


class Renamed(LSQConv2d):
    """Nothing but another constructor, and a checked norm."""

    def __init__(self):
        super().__init__(4, 4, 1)


def hooked(name, hook, before=False):
    model = Twice()
    module = getattr(model, name)
    (module.register_forward_pre_hook if before
     else module.register_forward_hook)(hook)
    return model


def patched(name):
    model = Twice()
    getattr(model, name).forward = lambda x: x * 2 + .1
    return model


def twice(name, module):
    model = Twice()
    setattr(model, name, module)
    return model


WS = dict(type='ConvWS')
ALTERED = {
    'norm': lambda: twice('middle', OwnNorm(4)),
    'training norm': lambda: twice('middle', StillTraining(4)),
    'conv': lambda: twice('conv1', OwnConv(4, 4, 1)),
    'standardized': lambda: twice('conv1', build_conv_layer(WS, 4, 4, 1)),
    'adaptive': lambda: twice('conv1', build_conv_layer(
        dict(type='Conv2dAdaptivePadding'), 4, 4, 3)),
    'hook of a conv': lambda: hooked('conv1', lambda m, a, y: y * 2 + .1),
    'hook of a norm': lambda: hooked('middle', lambda m, a, y: y * 2 + .1),
    'hook of a neuron': lambda: hooked('neuron1', lambda m, a, y: y * 2),
    'hook before': lambda: hooked('conv2', lambda m, a: (a[0] + 1, ), True),
    'forward of a neuron': lambda: patched('neuron1'),
    'forward of a norm': lambda: patched('middle'),
}


@pytest.mark.parametrize('name', ALTERED)
def test_what_has_something_of_its_own_stays(name, assert_equal):
    assert_equal(ALTERED[name]())


@pytest.mark.parametrize('module', [
    Renamed(), parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)),
    parametrizations.weight_norm(nn.Conv2d(4, 4, 1))], ids=str)
def test_what_computes_the_same_does_not(module, assert_equal):
    model = assert_equal(twice('conv1', module.eval()))
    assert isinstance(model.conv1, FoldedLayer)


# Where values go unseen.


@dataclass
class Spiking:
    """Outputs of a user's own class."""
    logits: Tensor
    spikes: list


def kept(m, x):
    m.seen = m.neuron1(x)
    y = m.conv2(m.neuron2(m.middle(m.conv1(m.seen))))
    return [y, m.seen.mean()] if m.seen.is_leaf else y


def in_a_class(m, x):
    s = m.neuron1(x)
    y = m.middle(m.conv1(s))
    return Spiking(m.conv2(m.neuron2(y)), [[s, {'y': y}]])


def nested(m, x):
    s = m.neuron1(x)
    y = m.conv1(s)
    return [[m.conv2(m.neuron2(m.middle(y))), (s, )], dict(y=[y])]


def functional(m, x):
    y = F.conv2d(m.neuron1(x), m.conv1.quantized_weight(), m.conv1.bias,
                 padding=1)
    return m.conv2(m.neuron2(m.middle(y)))


def own_weight(m, x):
    y = F.conv2d(m.neuron1(x), torch.eye(4).to(x)[..., None, None])
    return m.conv2(m.neuron2(m.middle(m.conv1(m.neuron1(y)))))


def by_value(m, x):
    y = m.conv1(m.neuron1(x))
    if x.mean() > 0:
        y = m.middle(y)
    return m.conv2(m.neuron2(y))


def reads_by_value(m, x):
    s = m.neuron1(x)
    y = m.conv2(m.neuron2(m.middle(m.conv1(s))))
    return y + s if float(x.mean()) > 0 else y


def loop(m, x):
    """Time steps one by one, with a state of Python's."""
    outs, state = [], 0
    for each in x.unflatten(0, (2, 1)):
        state = m.middle(m.conv1(m.neuron1(each))) + .5 * state
        outs.append(m.conv2(m.neuron2(state)))
    return torch.stack(outs)


def twice_the_same(m, x):
    """One layer, one neuron and one norm at two places each."""
    y = m.middle(m.conv1(m.neuron1(x)))
    y = m.middle(m.conv1(m.neuron1(y)))
    return m.conv2(m.neuron2(y)) + m.conv2(m.neuron2(x))


def two_neurons(m, x):
    """One layer for spikes of two amplitudes."""
    return m.conv1(m.neuron1(x)) + m.conv1(m.neuron2(x)) \
        + m.conv2(m.neuron2(m.middle(x)))


def written_over(m, x):
    """Memory that is used again."""
    buffer = torch.empty_like(x)
    buffer.copy_(m.neuron1(x))
    y = m.conv1(buffer)
    buffer.copy_(y)
    y = m.conv2(m.neuron2(m.middle(buffer)))
    return y.add_(buffer)


def inference(m, x):
    with torch.inference_mode():
        s = m.neuron1(x)
        flat = s.view(-1)
        y = m.conv1(s)
        flat.add_(.1)
        return m.conv2(m.neuron2(m.middle(y))) + m.conv1(s)


WAYS = [kept, in_a_class, nested, functional, own_weight, by_value,
        reads_by_value, loop, twice_the_same, two_neurons, written_over,
        inference]


@pytest.mark.parametrize('way', WAYS)
def test_what_a_forward_may_do(way, assert_equal):
    shift = torch.full(SHAPE, .5, dtype=torch.float64)
    assert_equal(Twice(forward=way), others=[double() + shift,
                                             double() - shift])


def test_python_that_reads_values_is_named(monkeypatch):
    lines = []
    monkeypatch.setattr(forms, 'print_log', lambda line, *_: lines.append(
        line))
    model = Twice(forward=by_value)
    assert 'Python reads values in the model (bool)' in str(describe(model))
    to_integer(model)
    assert len(lines) == 1 and 'the model (bool)' in lines[0]
    assert 'Python' not in str(describe(Twice()))


def test_spikes_kept_in_an_attribute_stay_as_they_were():
    model = as_if_trained(Twice(forward=kept)).double()
    converted, x = to_integer(model), double()
    with torch.no_grad():
        model(x), converted(x)
    torch.testing.assert_close(converted.seen, model.seen)


# What cannot be followed is an error.


class PlainList(nn.Module):
    """Its modules are called past their place."""

    def __init__(self, name):
        super().__init__()
        self.neuron, self.conv, self.norm = IELIF(), conv(), nn.BatchNorm2d(4)
        self.listed = [getattr(self, name)]
        self.name, self.last = name, conv()

    def forward(self, x):
        parts = {n: getattr(self, n) for n in ('neuron', 'conv', 'norm')}
        parts[self.name] = self.listed[0]
        x = parts['norm'](parts['conv'](parts['neuron'](x)))
        return self.last(self.neuron(x))


@pytest.mark.parametrize('name', ['neuron', 'conv', 'norm'])
def test_modules_called_past_their_place(name, convert):
    other = convert(as_if_trained(PlainList(name)))
    with pytest.raises(ValueError, match=f'{name} is called past its place'):
        other(torch.randn(SHAPE))


class Chooses(nn.Module):
    """Another way for other shapes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.conv = IELIF(), IELIF(), conv()

    def forward(self, x):
        if len(x) == 3:
            return self.conv(x)
        return self.conv((self.a if len(x) == 2 else self.b)(x))


def test_other_ways_at_a_later_run_are_errors(convert):
    other = convert(Chooses(), inputs=torch.randn(SHAPE))
    for _ in range(2):
        other(torch.randn(SHAPE))
    with pytest.raises(ValueError, match='b did not run when the model was'):
        other(torch.randn(1, 4, 6, 6))
    with pytest.raises(ValueError, match='conv read spikes of a when the '
                       'model was traced'):
        other(torch.randn(3, 4, 6, 6))


def by_shape(m, x):
    y = m.conv1(m.neuron1(x))
    return m.conv2(m.neuron2(m.middle(y) if len(x) > 1 else y))


@pytest.mark.parametrize('convert', [to_integer, to_spikes])
def test_a_norm_that_is_passed_by_is_an_error(convert):
    other = convert(as_if_trained(Twice(forward=by_shape)),
                    inputs=torch.randn(SHAPE))
    for form in (other, deepcopy(other)):
        form(torch.randn(SHAPE))
        with pytest.raises(ValueError, match='conv1 is not followed by its '
                           'norm any more'):
            form(torch.randn(1, 4, 6, 6))
        form(torch.randn(SHAPE))


def test_a_table_name_does_not_make_a_users_module_known():

    class flatten(nn.Module):  # noqa: N801

        def forward(self, x):
            return x.flatten(1) + .1

    model = nn.Sequential(IELIF(), flatten(), LSQLinear(144, 2))
    found = {d.name: d.source for d in describe(model, torch.randn(SHAPE))}
    assert found == {'2': 'add of spikes in 1'}
