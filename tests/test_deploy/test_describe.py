from collections import Counter

import pytest
from torch import nn

from mmqsdt.deploy import describe, to_integer, to_spikes
from mmqsdt.layers import ConvUnit, LSQConv2d, LSQLinear

FORMS = dict(float=lambda model: model, integer=to_integer, spikes=to_spikes)
STEM = 'backbone.stages.0.downsample.conv'


def real(model):
    return [d.name for d in describe(model) if d.reads == 'real']


def test_rows_of_a_unit():
    model = nn.ModuleDict(dict(
        stem=ConvUnit(3, 4, 7, None, 8),
        unit=ConvUnit(4, 4, 3, dict(type='mmqsdt.IELIF', levels=3), 2),
        stock=nn.Conv2d(4, 4, (1, 3), groups=4),
        up=nn.ConvTranspose2d(4, 4, 2),
        fc=nn.Linear(4, 4)))
    found = [(d.name, d.kind, d.reads, d.levels, d.bits, d.operation)
             for d in describe(model)]
    assert found == [
        ('stem.conv', 'conv 7x7', 'real', None, 8, 'MAC'),
        ('unit.conv', 'conv 3x3', 'spike', 3, 2, 'AC'),
        ('stock', 'depthwise 1x3', 'real', None, 32, 'MAC'),
        ('up', 'deconv 2x2', 'real', None, 32, 'MAC'),
        ('fc', 'linear', 'real', None, 32, 'MAC'),
    ]


@pytest.mark.parametrize('task', ['cls', 'det', 'seg'])
@pytest.mark.parametrize('inner_neurons', [False, True])
def test_all_forms_have_the_same_rows(inner_neurons, task, build):
    model = build(task, inner_neurons=inner_neurons)
    rows = describe(model)
    assert describe(to_integer(model)) == rows
    assert describe(to_spikes(model)) == rows
    assert describe(to_spikes(model, 'bitwise')) == rows


@pytest.mark.parametrize('form', FORMS)
def test_the_published_architecture_reads_real_values_in_its_inner_convs(
        form, build):
    model = FORMS[form](build('cls'))
    exceptions = ('.depthwise', '.pointwise2', '.project')
    for d in describe(model):
        inner = d.name.endswith(exceptions) and '_conv.' in d.name
        inner &= not d.name.endswith('sep_conv.depthwise')  # reads spikes
        expected = 'real' if inner or d.name == STEM else 'spike'
        assert d.reads == expected, d.name
        assert d.operation == dict(spike='AC', real='MAC')[d.reads]
        assert d.bits == (None if d.kind == 'q (k^T v)' else 4)
        assert d.levels == (4 if d.reads == 'spike' else None)


@pytest.mark.parametrize('form', FORMS)
def test_with_inner_neurons_nothing_but_the_stem_is_a_mac(form, build):
    model = FORMS[form](build('cls', inner_neurons=True))
    assert real(model) == [STEM]
    assert [d.name for d in describe(model) if d.operation == 'MAC'] == [STEM]


def test_attention_is_one_row_behind_its_neurons(build):
    names = [d.name for d in describe(build('cls'))]
    attention = 'backbone.stages.3.blocks.0.attn'
    at = names.index(f'{attention}.product')
    assert names[at - 1] == f'{attention}.v_conv.pointwise2'
    assert names[at + 1] == f'{attention}.proj_conv.pointwise1'
    assert sum(name.endswith('.product') for name in names) == 2


def test_stock_parts_read_real_values(build):
    names = real(build('det'))
    stock = [n for n in names if not n.startswith('backbone.')]
    assert len(stock) == 3
    assert all(n.startswith('roi_head.mask_head.') for n in stock)


def test_a_part_of_a_converted_model_has_its_rows(build):
    model = build('cls')
    for part in (model.backbone, to_spikes(model).backbone):
        rows = describe(part)
        assert rows[0].name == 'stages.0.downsample.conv'
        assert 'backbone.' + rows[-1].name == describe(model)[-2].name


def test_the_ann_counterpart_multiplies_everywhere(build):
    model = build('cls', weight_bits=None, neuron=dict(type='ReLU'))
    assert {(d.reads, d.bits, d.operation) for d in describe(model)} == {
        ('real', 32, 'MAC')
    }


def test_layers_that_no_neuron_feeds_read_real_values():
    model = nn.Sequential(LSQConv2d(3, 4, 1), LSQLinear(64, 4, bits=None))
    assert [(d.reads, d.bits) for d in describe(model)] == [('real', 4),
                                                            ('real', 32)]


def test_every_layer_that_multiplies_is_listed(build):
    model = build('seg')
    names = [d.name for d in describe(model)]
    layers = [name for name, m in model.named_modules()
              if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert max(Counter(names).values()) == 1
    assert [n for n in names if not n.endswith('.product')] == layers


def test_it_prints_as_a_table(build):
    rows = describe(build('cls'))
    lines = str(rows).splitlines()
    assert lines[0].split() == ['layer', 'kind', 'reads', 'bits', 'operation',
                                'from']
    assert lines[1].split() == [STEM, 'conv', '7x7', 'real', '4', 'MAC',
                                'input']
    spikes = sum(d.reads == 'spike' for d in rows)
    assert lines[-1] == (f'{spikes} layers read spikes, '
                         f'{len(rows) - spikes} read real values')
    assert str(describe(nn.ReLU())).endswith(
        '0 layers read spikes, 0 read real values')
