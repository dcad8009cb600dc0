"""What layers read, found by following the values."""

import pytest
import torch
from networks import NETWORKS
from torch import nn
from torch.nn import functional as F

from mmqsdt.deploy import describe, explain, trace
from mmqsdt.deploy.operations import OPERATIONS, end, keep
from mmqsdt.deploy.program import find_layers
from mmqsdt.layers import (
    IELIF,
    ConvUnit,
    LSQConv2d,
    LSQLinear,
    SepConv,
    SpikeAttention,
)

NEURON = dict(type='mmqsdt.IELIF')


def sources(model, inputs=None):
    return {d.name: d.source for d in describe(model, inputs)}


@pytest.mark.parametrize('name', NETWORKS)
def test_networks_of_ones_own(name):
    build, shape, expected = NETWORKS[name]
    found = sources(build(), torch.randn(shape))
    assert found.keys() == expected.keys()
    for layer, source in expected.items():
        assert found[layer].startswith(source), (layer, found[layer])


def test_what_a_conv_unit_is_made_of():
    unit = ConvUnit(4, 4, 3, NEURON)
    entry, = find_layers(unit).values()
    assert (entry.layer, entry.neuron, entry.norms) == (
        unit.conv, unit.neuron, (unit.norm, ))
    assert find_layers(ConvUnit(3, 4, 7, None))['conv'].spikes is None
    unit.norm = nn.GroupNorm(2, 4)  # cannot be folded, and stays
    assert find_layers(unit)['conv'].norms == ()


@pytest.mark.parametrize('inner_neurons', [False, True])
def test_what_attention_and_sep_conv_read(inner_neurons):
    model = nn.ModuleDict(dict(
        attn=SpikeAttention(8, 2, inner_neurons=inner_neurons),
        sep=SepConv(8, NEURON, inner_neuron=inner_neurons)))
    paths = {module: name for name, module in model.named_modules()}
    found = {
        name: paths.get(entry.neuron)
        for name, entry in find_layers(model).items()
    }
    expected = {}
    for conv in ('q_conv', 'k_conv', 'v_conv', 'proj_conv'):
        at = f'attn.{conv}'
        expected[f'{at}.pointwise1'] = (
            'attn.attn_neuron' if conv == 'proj_conv' else 'attn.neuron')
        for layer, neuron in (('depthwise', 'inner_neuron1'),
                              ('pointwise2', 'inner_neuron2')):
            expected[f'{at}.{layer}'] = f'{at}.{neuron}' \
                if inner_neurons else None
    expected['sep.expand.conv'] = 'sep.expand.neuron'
    expected['sep.depthwise'] = 'sep.neuron'
    expected['sep.project'] = 'sep.inner_neuron' if inner_neurons else None
    assert found == expected


def test_norms_behind_attention_without_neurons_are_found_too():
    attn = SpikeAttention(8, 2, dict(type='ReLU'))
    layers = find_layers(attn)
    assert all(entry.spikes is None for entry in layers.values())
    assert layers['q_conv.pointwise2'].norms == (attn.q_conv.norm,
                                                 attn.q_norm)


# Norms and neurons belong to a layer if nothing else reads it.


class Side(nn.Module):
    """What stands behind a conv is also read by something at its side."""

    def __init__(self, side) -> None:
        super().__init__()
        self.neuron, self.conv = IELIF(), LSQConv2d(8, 8, 1)
        self.norm, self.neuron2 = nn.BatchNorm2d(8), IELIF()
        self.last, self.side = LSQConv2d(8, 8, 1), side

    def forward(self, x):
        return self.side(self, x)


def plain(m, x):
    return m.last(m.neuron2(m.norm(m.conv(m.neuron(x)))))


def reads_before_the_norm(m, x):
    y = m.conv(m.neuron(x))
    return m.last(m.neuron2(m.norm(y))) + y


def reads_it_unseen(m, x):
    y = m.conv(m.neuron(x))
    return m.last(m.neuron2(m.norm(y))) + torch.from_numpy(y.numpy() * 2)


def returns_it(m, x):
    y = m.conv(m.neuron(x))
    return m.last(m.neuron2(m.norm(y))), y


def reads_behind_the_norm(m, x):
    y = m.norm(m.conv(m.neuron(x)))
    return m.last(m.neuron2(y)) + y


@pytest.mark.parametrize('side, norms, follower', [
    (plain, True, True), (reads_before_the_norm, False, False),
    (reads_it_unseen, False, False), (returns_it, False, False),
    (reads_behind_the_norm, True, False)])
def test_norms_and_neurons_behind_a_layer(side, norms, follower):
    model = Side(side)
    entry = find_layers(model)['conv']
    assert entry.norms == ((model.norm, ) if norms else ())
    assert entry.follower is (model.neuron2 if follower else None)


def spikes_are_added(m, x):
    y = m.neuron(x)
    return plain(m, x) + y


def spikes_are_returned(m, x):
    y = m.neuron(x)
    return m.last(y), y


def spikes_are_read_unseen(m, x):
    y = m.neuron(x)
    return m.last(y) + torch.from_numpy(y.numpy() * 2)


def spikes_are_written_to(m, x):
    y = m.neuron(x)
    y[:, 0] += 1
    return m.last(y)


@pytest.mark.parametrize('side', [
    spikes_are_added, spikes_are_returned, spikes_are_read_unseen])
def test_neurons_that_more_than_layers_read_keep_their_amplitude(side):
    model = Side(side)
    assert model.neuron not in trace(model).counting


def test_neurons_that_only_layers_read_may_count():
    model = Side(plain)
    program = trace(model)
    assert program.counting == program.slotting == {model.neuron,
                                                    model.neuron2}


def test_what_is_written_to_is_no_spike():
    found = sources(Side(spikes_are_written_to))
    assert found['last'] == 'change in place of spikes'


def test_a_view_that_is_written_to_is_no_spike():

    def side(m, x):
        y = m.neuron(x)
        y.view(-1).add_(.1)
        return m.last(y)

    assert sources(Side(side))['last'] == 'change in place of spikes'


@pytest.mark.parametrize('linear', [True, False])
def test_a_norm_over_another_axis_is_not_folded(linear):
    model = nn.Sequential(IELIF(), LSQLinear(8, 8), nn.BatchNorm1d(8))
    shape = (4, 8) if linear else (4, 8, 8)
    entry = find_layers(model, torch.randn(shape))['1']
    assert bool(entry.norms) == linear


# Which operations keep spikes.


def written(target, x):
    target[:, :4] = x[:, 4:]
    return target


KEPT = dict(
    reshape=lambda x: x.reshape(2, -1).reshape(x.shape),
    transpose=lambda x: x.transpose(2, 3), mT=lambda x: x.mT,
    index=lambda x: x[:, torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])],
    flip=lambda x: x.flip(1), roll=lambda x: x.roll(1, 2),
    cast=lambda x: x.double().float(), relu=F.relu, maximum=lambda x:
    torch.maximum(x, x.flip(1)), pool=lambda x: F.max_pool2d(x, 3, 1, 1),
    indices=lambda x: F.max_pool2d(x, 3, 1, 1, return_indices=True)[0],
    dropout=lambda x: F.dropout(x, .5, False), half=lambda x: x / 2,
    stack=lambda x: torch.stack([x, x]).flatten(0, 1),
    split=lambda x: torch.cat(x.split(2, 1), 1), number=lambda x: 3 * x,
    zeros=lambda x: written(x.new_zeros(x.shape), x), sum=lambda x: x +
    x.sum() * 0)
ENDED = dict(
    minus=lambda x: -x, add=lambda x: x + 1, negative=lambda x: x * -1.,
    mean=lambda x: x.mean(1, keepdim=True).expand_as(x), sum=lambda x:
    x.sum(1, keepdim=True).expand_as(x), pool=lambda x:
    F.avg_pool2d(x, 3, 1, 1), pad=lambda x: F.pad(x, (1, 1), value=1.),
    learned=lambda x: x * torch.ones(8, 1, 1), dropout=lambda x:
    F.dropout(x, .5, True), where=lambda x: torch.where(x > 0, x, x + 1),
    softmax=lambda x: x.softmax(1), ones=lambda x: written(
    torch.ones_like(x), x), cat=lambda x: torch.cat([x, x + 1]))


@pytest.mark.parametrize('name', KEPT)
def test_operations_that_keep_spikes(name):
    model = Side(lambda m, x: m.last(KEPT[name](m.neuron(x))))
    entry = find_layers(model)['last']
    assert entry.neuron is model.neuron
    factor = dict(half=.5, number=3.).get(name, 1.)
    assert entry.spikes.amplitude == .25 * factor


@pytest.mark.parametrize('name', ENDED)
def test_operations_that_end_them(name):
    model = Side(lambda m, x: m.last(ENDED[name](m.neuron(x))))
    assert find_layers(model)['last'].spikes is None


def test_every_rule_is_used_by_name():
    assert OPERATIONS['reshape'][0] is keep
    assert OPERATIONS['RoIAlign'][0] is end
    assert not any(name != name.strip('_') for name in OPERATIONS)


# Calls of a layer.


def test_a_layer_that_reads_spikes_at_one_call_only():
    model = Side(lambda m, x: m.last(m.neuron(x)) + m.last(x))
    assert sources(model)['last'].startswith('spikes at one call')


def test_layers_that_do_not_run_are_named():
    model = Side(lambda m, x: m.last(m.neuron(x)))
    assert sources(model)['conv'] == 'did not run'


def test_the_random_state_and_the_model_stay_as_they_were():
    model = nn.Sequential(ConvUnit(4, 4, 3, NEURON), nn.Dropout()).train()
    nn.init.ones_(model[0].conv.weight)  # its step size has not followed yet
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    trace(model)
    assert torch.equal(torch.rand(3), expected)
    assert model.training and 'forward' not in vars(model)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_what_no_noise_fits_asks_for_inputs():

    class Two(nn.Module):

        def __init__(self) -> None:
            super().__init__()
            self.fc = LSQLinear(4, 2)

        def forward(self, x, y):
            return self.fc(x + y)

    x = torch.randn(2, 4)
    with pytest.raises(ValueError, match='a Two does not run.*inputs='):
        describe(Two())
    assert sources(Two(), (x, x)) == {'fc': 'add'}
    assert sources(Two(), dict(x=x, y=x)) == {'fc': 'add'}


def test_explain_tells_the_way():
    build, _, _ = NETWORKS['residual']
    text = explain(build(), 'conv3')
    assert text.splitlines() == [
        'conv3 reads spikes of neuron3, amplitude 0.25, 0 to 4',
        '  IELIF neuron3 -> spikes']
    text = explain(nn.Sequential(IELIF(), nn.AvgPool2d(2), nn.Identity(),
                                 LSQConv2d(8, 4, 1)), '3')
    assert text.splitlines() == [
        '3 reads real values: avg_pool2d of spikes in 1',
        '  avg_pool2d in 1', '    IELIF 0 -> spikes']
    with pytest.raises(KeyError, match='no conv or linear layer'):
        explain(build(), 'neuron3')
