import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmqsdt.deploy import describe, to_spikes
from mmqsdt.deploy.structure import WeightLayer, find_layers, unit_layers
from mmqsdt.layers import (
    IELIF,
    ConvUnit,
    LSQConv2d,
    LSQLinear,
    SepConv,
    SpikeAttention,
)

NEURON = dict(type='mmqsdt.IELIF')


def test_what_a_conv_unit_is_made_of():
    unit = ConvUnit(4, 4, 3, NEURON)
    assert find_layers(unit) == {
        'conv': WeightLayer(unit.conv, unit.neuron, (unit.norm, ))
    }
    stem = ConvUnit(3, 4, 7, None)
    assert find_layers(stem)['conv'].neuron is None
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


def test_attention_without_neurons_has_its_rep_convs():
    attn = SpikeAttention(8, 2, dict(type='ReLU'))
    layers = find_layers(attn)
    assert all(entry.neuron is None for entry in layers.values())
    assert layers['q_conv.pointwise2'].norms == (attn.q_conv.norm, )


class Head(nn.Module):
    """A neuron and the linear layer it feeds, behind a unit."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = ConvUnit(4, 6, 3, NEURON)
        self.neuron = IELIF()
        self.fc = LSQLinear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.neuron(self.unit(x).mean((2, 3))))


def test_units_inside_a_head_are_found():
    head = Head()
    layers = find_layers(head)
    assert layers['unit.conv'].neuron is head.unit.neuron
    assert layers['fc'].neuron is head.neuron
    assert [d.reads for d in describe(head)] == ['spike', 'spike']


def test_layers_outside_units_read_real_values():
    model = nn.Sequential(LSQConv2d(3, 4, 1), IELIF(), LSQConv2d(4, 4, 1))
    assert find_layers(model) == {
        '0': WeightLayer(model[0]), '2': WeightLayer(model[2])
    }


class Pooled(ConvUnit):
    """In bitwise slots, the largest slot is not of the largest count."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(F.max_pool2d(self.neuron(x), 2)))


def test_a_unit_with_a_forward_of_its_own_is_refused():
    with pytest.raises(ValueError, match='Pooled is a ConvUnit with a '
                       'forward of its own'):
        to_spikes(nn.Sequential(Pooled(4, 4, 3, NEURON)), 'bitwise')


def test_a_registered_unit_is_taken_as_told():

    class Doubled(ConvUnit):

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    unit_layers.register(
        Doubled, lambda unit: [WeightLayer(unit.conv, unit.neuron)])
    unit = Doubled(4, 4, 3, NEURON)
    assert find_layers(unit) == {'conv': WeightLayer(unit.conv, unit.neuron)}
