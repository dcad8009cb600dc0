"""Whatever stands between a neuron and a layer: equal forms, or real values.

Every operation of the table, with arguments that are odd, and those that
look like one of them; then networks put together by chance.
"""

import numpy as np
import pytest
import torch
from networks import CONVERSIONS, as_if_trained
from torch import nn
from torch.nn import functional as F

from mmqsdt.deploy import describe
from mmqsdt.deploy.operations import OPERATIONS, Call, Spikes
from mmqsdt.layers import IELIF, LSQConv2d, LSQLinear

DOUBLE = {name: convert for name, convert in CONVERSIONS.items()
          if name != 'fast'}  # which is for float32
SHAPE = 2, 4, 6, 6


class Between(nn.Module):
    """Layers read spikes behind an operation: its result, and its input."""

    def __init__(self, operation):
        super().__init__()
        self.neuron, self.other = IELIF(threshold=.35, amplitude=.3), \
            IELIF(3, amplitude=.3)
        self.last = LSQLinear(1, 3)
        self.after, self.always = LSQLinear(1, 2), LSQLinear(1, 2)
        self.operation = operation

    def forward(self, x):
        y = self.neuron(x)
        z = self.operation(y, self.other(x.flip(0)))
        return [self.last(z.reshape(-1, 1)), self.after(y.reshape(-1, 1)),
                self.always(self.other(x).reshape(-1, 1))]


def do(function, *args, **kwargs):
    """The operation as a function of spikes and others, which it ignores."""
    return lambda x, _: function(x, *args, **kwargs)


def in_place(change, view=lambda x: x):
    """Write to a view of spikes, and go on with the spikes."""

    def operation(x, other):
        change(view(x))
        return x

    return operation


def by_view(change, view):
    """Write to spikes, and go on with a view of before."""

    def operation(x, other):
        seen = view(x)
        change(x)
        return seen

    return operation


def into(make, function):
    """Write the result into a tensor that is there."""

    def operation(x, other):
        out = make(x)
        function(x, other, out)
        return out.double()

    return operation


def by_numpy(x, _):
    x.numpy()[:] *= 1.5
    return x


def by_data(x, _):
    x.data = x.data * 1.5
    return x


MAP = dict(size=(3, 3))
half = torch.float16
# Operation -> what is named if the layer reads real values; '' if spikes.
CASES = {
    'floor': (do(torch.div, 1, rounding_mode='floor'), "rounding_mode='flo"),
    'trunc': (do(torch.div, .4, rounding_mode='trunc'), "rounding_mode='tr"),
    'floor in place': (in_place(lambda x: x.div_(1, rounding_mode='floor')),
                       "rounding_mode='floor'"),
    'div': (do(torch.div, 3), ''), 'div kwarg': (do(torch.div, other=3), ''),
    'div none': (do(torch.div, 3, rounding_mode=None), ''),
    'div 0': (do(lambda x: x / -2.), 'a factor of -0.5'),
    'inverse': (do(lambda x: 2 / (x + 1)), 'add of spikes'),
    'floordiv': (do(lambda x: x // .3), 'floor'),
    'mod': (do(lambda x: x % .5), 'rem'),
    'negative': (do(torch.mul, -1), 'a factor of -1'),
    'zero': (do(torch.mul, 0), 'mul'), 'true': (do(torch.mul, True), ''),
    'numpy number': (do(lambda x: x * np.float32(1.5)), ''),
    'huge': (do(torch.mul, 1e200), 'an amplitude of 3e+199'),
    'mul tensor': (do(torch.mul, torch.tensor(2.)), 'mul of spikes'),
    'mul in place': (in_place(lambda x: x.mul_(2.)), ''),
    'imul': (in_place(lambda x: x.__imul__(.5)), ''),
    'idiv': (in_place(lambda x: x.__itruediv__(.5)), ''),
    'mul channel': (do(torch.mul, torch.tensor([1., 2., 3., 4.]).view(
        4, 1, 1)), 'mul of spikes'),
    'mul out': (into(torch.empty_like, lambda x, o, out: torch.mul(
        x, 2., out=out)), 'mul with out='),
    'add': (do(torch.add, 0), ''), 'add 1': (do(torch.add, 1), 'add'),
    'add alpha': (do(torch.add, 0, alpha=2), ''),
    'add spikes': (lambda x, o: x + o, 'add of spikes'),
    'add zeros alpha': (lambda x, o: torch.add(
        torch.zeros_like(x), x, alpha=2), 'add with alpha=2'),
    'add zeros': (lambda x, o: torch.zeros_like(x) + x, ''),
    'sum of a list': (lambda x, o: sum([x]), ''),
    'sum of two': (lambda x, o: sum([x, o]), 'add of spikes'),
    'sub': (do(torch.sub, 0), 'sub'), 'rsub': (do(lambda x: 1 - x), 'rsub'),
    'to': (do(lambda x: x.to(half).to(x.dtype)), 'which rounds an amplitude'),
    'exact to': (do(lambda x: (x / .3 / 4).half().double()), ''),
    'float': (do(lambda x: x.float().double()), 'which rounds an amplitude'),
    'same to': (do(lambda x: x.to(x).to(torch.float64).to('cpu')), ''),
    'long': (do(lambda x: x.long().double()), 'long of spikes'),
    'view dtype': (do(lambda x: x.contiguous().view(
        torch.float32).double()), 'float32 made of torch.float64'),
    'view size': (do(lambda x: x.view(2, -1).view(size=(-1, ))), ''),
    'view int': (do(lambda x: x.view(torch.int64).double() * 1e-18), 'view'),
    'mean': (do(torch.mean, 1, keepdim=True), 'mean of spikes'),
    'amax': (do(torch.amax, (2, 3), keepdim=True), ''),
    'max': (do(lambda x: x.max(1, keepdim=True)[0]), ''),
    'max kwarg': (do(lambda x: x.max(dim=1).values), ''),
    'max all': (do(torch.max), ''),
    'max of both': (lambda x, o: torch.max(x, o), ''),
    'max indices': (do(lambda x: x.max(1)[1].double()), 'max of spikes'),
    'min': (do(torch.amin, 1), 'amin'),
    'maximum real': (do(lambda x: torch.maximum(x, torch.full_like(
        x, .2))), 'maximum'),
    'clamp': (do(torch.clamp, max=.4), 'clamp'),
    'pool': (do(F.max_pool2d, 3, 2, 1, ceil_mode=True), ''),
    'pool dilated': (do(F.max_pool2d, 2, dilation=2), ''),
    'pool indices': (do(lambda x: F.max_pool2d(
        x, 2, return_indices=True)[1].double()), 'max_pool2d'),
    'pool values': (do(lambda x: F.max_pool2d(
        x, 2, return_indices=True)[0]), ''),
    'pool torch': (do(torch.max_pool2d, 2, 2, 0, 1, True), ''),
    'adaptive': (do(F.adaptive_max_pool2d, 4), ''),
    'adaptive mean': (do(F.adaptive_avg_pool2d, 4), 'adaptive_avg_pool2d'),
    'fractional': (do(lambda x: F.lp_pool2d(x, 2, 2)), 'lp_pool2d'),
    'unpool': (do(lambda x: F.max_unpool2d(*F.max_pool2d(
        x, 2, return_indices=True), 2)), 'max_unpool2d'),
    'pad': (do(F.pad, (1, 1)), ''), 'pad 0': (do(F.pad, (1, 1), value=0), ''),
    'pad 1': (do(F.pad, (1, 1), value=1), 'pad with value=1'),
    'pad position': (do(F.pad, (1, 1), 'constant', 2.), 'pad with value=2.0'),
    'pad reflect': (do(F.pad, (1, 1, 1, 1), mode='reflect'), ''),
    'pad crop': (do(F.pad, (-1, 1, -2, 0)), ''),
    'nearest': (do(F.interpolate, scale_factor=1.5), ''),
    'exact': (do(F.interpolate, (4, 9), mode='nearest-exact'), ''),
    'bicubic': (do(F.interpolate, (9, 9), None, 'bicubic'), "'bicubic'"),
    'area': (do(F.interpolate, mode='area', **MAP), "mode='area'"),
    'antialias': (do(F.interpolate, mode='bilinear', antialias=True, **MAP),
                  "mode='bilinear'"),
    'recomputed': (do(F.interpolate, scale_factor=.7, mode='nearest',
                      recompute_scale_factor=True), ''),
    'grid': (do(lambda x: F.grid_sample(x, x.new_zeros(2, 3, 3, 2) + .13,
                                        align_corners=False)), 'grid_sample'),
    'dropout': (do(F.dropout, .5, training=False), ''),
    'dropout in place': (do(F.dropout, .5, False, True), ''),
    'torch dropout': (do(torch.dropout, .5, train=False), ''),
    'alpha dropout': (do(F.alpha_dropout, .5, False), 'alpha_dropout'),
    'relu': (do(F.relu, inplace=True), ''),
    'leaky': (do(F.leaky_relu, .1), 'leaky_relu'),
    'relu6': (do(F.relu6), 'relu6'), 'abs': (do(torch.abs), 'abs'),
    'cat': (lambda x, o: torch.cat([x, o], dim=1), ''),
    'cat axis': (lambda x, o: torch.cat((x, o), axis=-1), ''),
    'cat scaled': (lambda x, o: torch.cat([x * 2, o]), 'cat of spikes'),
    'cat zeros': (lambda x, o: torch.cat([x, x.new_zeros(1, 4, 6, 6)]), 'cat'),
    'cat ones': (lambda x, o: torch.cat([x, x.new_ones(1, 4, 6, 6)]), 'cat'),
    'cat out': (into(lambda x: x.new_empty(4, 4, 6, 6), lambda x, o, out:
                     torch.cat([x, o], out=out)), 'cat with out='),
    'stack': (lambda x, o: torch.stack([x, o], -1), ''),
    'copy': (into(torch.empty_like, lambda x, o, out: out.copy_(x)), 'copy'),
    'set in zeros': (into(torch.zeros_like, lambda x, o, out:
                          out.__setitem__(slice(1, 2), x[1:])), ''),
    'set in empty': (into(torch.empty_like, lambda x, o, out:
                          out.__setitem__(slice(0, 2), x)), 'setitem'),
    'set in float': (into(lambda x: x.new_zeros(SHAPE, dtype=torch.float32),
                          lambda x, o, out: out.__setitem__(0, x[0])),
                     'setitem with torch.float64 in torch.float32'),
    'set 0': (in_place(lambda x: x.__setitem__((0, slice(1, 3)), 0)), ''),
    'set 1': (in_place(lambda x: x.__setitem__((0, 1), 1.)), 'setitem with'),
    'set numpy': (in_place(lambda x: x.__setitem__((0, 1), np.float64(3))),
                  'setitem with 3'),
    'set mask': (in_place(lambda x: x.__setitem__(x > .5, .1)), 'setitem'),
    'set tensor': (in_place(lambda x: x.__setitem__(0, torch.tensor(.1))),
                   'setitem'),
    'set spikes': (lambda x, o: in_place(
        lambda x: x.__setitem__((slice(None), 0), o[:, 1]))(x, o), ''),
    'fill': (in_place(lambda x: x.masked_fill_(x > .5, .1)), 'masked_fill'),
    'add to view': (in_place(lambda x: x.add_(.1), lambda x: x[:, 1:]),
                    'change in place'),
    'scale view': (in_place(lambda x: x.mul_(.5), lambda x: x.flatten(1)),
                   'change in place'),
    'add to data': (in_place(lambda x: x.add_(.1), lambda x: x.data),
                    'change in place'),
    'add to detached': (in_place(lambda x: x.mul_(2), torch.detach),
                        'change in place'),
    'fill data': (in_place(lambda x: x.fill_(.15), lambda x: x.data[:, 0]),
                  'change in place'),
    'view before': (by_view(lambda x: x.mul_(2.), lambda x: x[1:]),
                    'change in place'),
    'relu before': (by_view(lambda x: F.relu(x, inplace=True),
                            lambda x: x.flatten()), 'change in place'),
    'numpy': (by_numpy, 'numpy'), 'set data': (by_data, 'data'),
    'iteration': (do(lambda x: torch.cat([*x], 1)), ''),
    'expand': (do(lambda x: x[:, :, :1].expand(2, 4, 5, 6)), ''),
    'repeat': (do(torch.repeat_interleave, torch.tensor([2, 1]), dim=0), ''),
    'tile': (do(torch.tile, (2, 1)), ''),
    'roll': (do(torch.roll, (1, 2), dims=(2, 3)), ''),
    'rot90': (do(torch.rot90, 1, (2, 3)), ''),
    'gather': (do(lambda x: x.gather(1, torch.zeros_like(x).long())), ''),
    'scatter': (do(lambda x: torch.zeros_like(x).scatter_add(
        1, torch.zeros_like(x).long(), x)), 'scatter_add'),
    'select': (do(torch.index_select, dim=1, index=torch.tensor([2, 0])), ''),
    'masked': (do(lambda x: torch.masked_select(x, x > .1)), ''),
    'where': (do(lambda x: torch.where(x > .5, x, .2)), 'where'),
    'unfold': (do(F.unfold, 3, dilation=1, padding=1, stride=2), ''),
    'fold': (do(lambda x: F.fold(F.unfold(x, 3, 1, 1), 6, 3, 1, 1)), 'fold'),
    'windows': (do(lambda x: x.unfold(2, 3, 2)), ''),
    'shuffle': (do(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)), ''),
    'channels': (do(F.channel_shuffle, 2), ''),
    'split': (do(lambda x: x.split([1, 3], dim=1)[1]), ''),
    'chunk': (do(lambda x: x.chunk(chunks=3, dim=2)[2]), ''),
    'squeeze': (do(lambda x: x[:1].squeeze(0).unsqueeze_(1)), ''),
    'transpose': (do(lambda x: x.transpose(dim0=1, dim1=2).mT), ''),
    'flatten': (do(torch.flatten, start_dim=1, end_dim=-1), ''),
    'cumsum': (do(torch.cumsum, 1), 'cumsum'),
    'sort': (do(lambda x: x.sort(1)[0]), 'sort'),
    'round': (do(lambda x: (x * 3.3).round()), 'round'),
    'power': (do(lambda x: x**2), 'pow'), 'square': (do(lambda x: x * x), ''),
    'threshold': (do(F.threshold, .5, 0.), 'threshold'),
    'products': (lambda x, o: x * o, ''),
    'product': (lambda x, o: (x @ o) / 6, 'div'),
    'norm': (do(F.layer_norm, (6, )), 'layer_norm'),
    'complex': (do(lambda x: torch.view_as_real(x * 1j)), 'mul of spikes'),
    'nan': (do(torch.mul, 1e-200), 'an amplitude of 3e-201'),
}


def assert_same(outs, others):
    for out, other in zip(outs, others, strict=True):
        # float64 sums of a few terms in another order.
        torch.testing.assert_close(other, out, rtol=1e-11, atol=1e-11)


def run(model, x):
    with torch.no_grad():
        return model(x.clone())


@pytest.mark.parametrize('name', CASES)
def test_odd_arguments(name):
    operation, words = CASES[name]
    model = as_if_trained(Between(operation).double())
    x, other = torch.randn(2, *SHAPE, dtype=torch.float64).unbind()
    source = {d.name: d.source for d in describe(model, x.clone())}['last']
    assert words in source
    assert (source in ('neuron', 'other') or source.startswith('neuron,')) \
        == (not words), source
    for convert in DOUBLE.values():
        assert_same(run(model, other), run(convert(model, inputs=x.clone()),
                                           other))


def test_every_operation_ends_at_an_argument_it_does_not_know():
    spikes = Spikes((IELIF(), ), .25, 4)
    for name in OPERATIONS:
        call = Call(name, (torch.ones(1), ), dict(novelty=3), [spikes])
        assert call.result() == (None, ' with novelty=3')


# Networks put together by chance.


class Chance(nn.Module):
    """Steps drawn by chance, over maps of one shape."""

    def __init__(self, seed):
        super().__init__()
        self.random = np.random.default_rng(seed)
        self.neurons, self.convs, self.norms = (nn.ModuleList()
                                                for _ in range(3))
        self.last = LSQConv2d(4, 2, 1)
        self.pick(self.neurons)
        kinds = ['unit'] * 3 + ['operation'] * 3 + ['neurons', 'convs',
                                                    'norms']
        self.steps = []
        for _ in range(self.random.integers(4, 12)):
            kind = str(self.random.choice(kinds))
            names = ['neurons', 'convs', 'norms'] if kind == 'unit' else \
                [] if kind == 'operation' else [kind]
            modules = [(name, self.pick(getattr(self, name)))
                       for name in names]
            self.steps.append((modules, self.random.integers(len(SAME)),
                               self.random.random(2)))

    def pick(self, modules):
        """The number of one that is there already, or of a new one."""
        if len(modules) and self.random.random() < .25:
            return self.random.integers(len(modules))
        draw = self.random.choice
        if modules is self.neurons:
            modules.append(IELIF(
                int(draw([1, 3, 4])), float(draw([.25, .35])),
                float(draw([.25, .25, .3])), time_steps=int(draw([1, 1, 2])),
                rounding=str(draw(['half_up', 'half_even']))))
        elif modules is self.norms:
            modules.append(nn.BatchNorm2d(4))
        else:
            size = int(draw([1, 3]))
            modules.append(LSQConv2d(4, 4, size, padding=size // 2))
        return len(modules) - 1

    def forward(self, x):
        maps = [x]
        for modules, operation, places in self.steps:
            # The latest more often than others.
            a, b = (maps[int(place**.3 * len(maps))] for place in places)
            if not modules:
                a = SAME[operation](a.clone() if a is x else a, b)
            for name, i in modules:
                a = getattr(self, name)[i](a)
            maps.append(a)
        return [self.last(self.neurons[0](maps[-1])), *maps[1:][-2:]]


# Of the cases those that give back a map of the same shape; and more.
SAME = [CASES[name][0] for name in (
    'floor', 'div', 'negative', 'mul in place', 'add', 'add 1', 'clamp',
    'relu', 'set 0', 'set numpy', 'add to view', 'scale view', 'dropout',
    'dropout in place', 'roll', 'maximum real', 'where', 'square',
    'add to data', 'sum of a list', 'add spikes', 'products')] + [
        lambda x, y: x * 2 if x.mean() > .3 else x + .1,
        lambda x, y: x @ y.mT * .1 + y, lambda x, y: torch.max(x, y),
        lambda x, y: torch.cat([x[:, :2], y[:, 2:]], 1),
        lambda x, y: F.max_pool2d(x, 3, 1, 1),
        lambda x, y: F.avg_pool2d(x, 3, 1, 1), lambda x, y: x.flip(1)]


@pytest.mark.parametrize('seed', range(40))
def test_networks_by_chance(seed):
    torch.manual_seed(seed)
    model = as_if_trained(Chance(seed).double())
    x, *others = torch.randn(4, *SHAPE, dtype=torch.float64)
    expected = [run(model, other) for other in others]
    for convert in DOUBLE.values():
        try:
            converted = convert(model, inputs=x.clone())
        except ValueError as error:
            assert 'no weight layer of this model reads spikes' in str(
                error) or 'it has no neuron' in str(error)
            continue
        for other, outs in zip(others, expected):
            assert_same(outs, run(converted, other))
