import pytest
import torch

from mmqsdt.deploy.spikes import (
    SlotNeuron,
    SlotProduct,
    encode,
    integer_counts,
    slot_weights,
    spiking_neurons,
    split_slots,
    weighted_sum,
)
from mmqsdt.layers import IELIF, linear_attention

ENCODINGS = ['thermometer', 'bitwise']


@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('levels', [1, 2, 3, 4, 7, 8, 15])
def test_slots_carry_every_count(levels, encoding):
    counts = torch.arange(levels + 1.).repeat(2, 1)  # (N, ...)
    weights = slot_weights(levels, encoding)
    slots = encode(counts, levels, encoding)
    assert slots.dtype == counts.dtype
    assert slots.shape == (2 * len(weights), levels + 1)
    assert ((slots == 0) | (slots == 1)).all()
    decoded = weighted_sum(split_slots(slots, len(weights)), weights, 0)
    assert torch.equal(decoded, counts)


@pytest.mark.parametrize('levels, thermometer, bitwise', [
    (1, (1, ), (1, )), (3, (1, 1, 1), (1, 2)), (4, (1, 1, 1, 1), (1, 2, 4)),
    (8, (1, ) * 8, (1, 2, 4, 8))
])
def test_number_and_weights_of_slots(levels, thermometer, bitwise):
    assert slot_weights(levels, 'thermometer') == thermometer
    assert slot_weights(levels, 'bitwise') == bitwise


def test_thermometer_is_the_published_one():
    """b_d = 1[d < C], d = 0..D-1, slots outermost."""
    slots = encode(torch.tensor([[0., 2.], [4., 3.]]), 4, 'thermometer')
    first = [[0, 1], [1, 1]]
    assert slots.tolist() == [
        *first, *first, *[[0, 0], [1, 1]], *[[0, 0], [1, 0]]
    ]


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_no_region_at_all(encoding):
    slots = encode(torch.zeros(0, 3), 4, encoding)
    weights = slot_weights(4, encoding)
    assert split_slots(slots, len(weights)).shape == (len(weights), 0, 3)


@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('time_steps', [1, 3])
def test_a_slot_neuron_emits_the_count_of_its_neuron(time_steps, encoding):
    neuron = IELIF(time_steps=time_steps, amplitude=1.)
    slot_neuron = SlotNeuron(neuron, encoding)
    x = torch.randn(6, 5)
    weights = slot_weights(4, encoding)
    slots = split_slots(slot_neuron(x), len(weights))
    assert torch.equal(weighted_sum(slots, weights, 0), neuron(x))


def test_neurons_keep_their_path_in_spike_form():
    model = torch.nn.ModuleDict(dict(a=IELIF(), b=IELIF()))
    inner = model['b']
    model['b'] = SlotNeuron(inner, 'bitwise')
    assert spiking_neurons(model) == dict(a=model['a'], b=inner)


def test_integer_counts():
    neuron = IELIF(amplitude=.3)
    x = torch.rand(50)
    assert torch.equal(integer_counts(neuron, neuron(x)), neuron.count(x))


@pytest.mark.parametrize('encoding', [*ENCODINGS, 'count'])
@pytest.mark.parametrize('levels', [(4, 4, 4), (1, 3, 7)])
def test_product_of_slots_is_the_product_of_counts(levels, encoding):
    product = SlotProduct(2, .25, levels, encoding)
    counts = [
        torch.randint(level + 1, (3, 8, 4, 5)).float() for level in levels
    ]
    slots = counts if encoding == 'count' else [
        encode(c, level, encoding) for c, level in zip(counts, levels)
    ]
    heads = [c.flatten(2).unflatten(1, (2, -1)) for c in counts]
    expected = linear_attention(*heads, .25).reshape(3, 8, 4, 5)
    assert torch.equal(product(*slots), expected)  # integers: exact


def test_averaging_the_attention_of_slots_is_not_attention():
    """Why the product joins all pairs of slots."""
    q, k, v = (encode(torch.randint(5, (1, 1, 4, 6)).float(), 4,
                      'thermometer').unsqueeze(1) for _ in range(3))
    slot_wise = linear_attention(q, k, v, 1.).sum(0)
    joint = linear_attention(*(x.sum(0, keepdim=True) for x in (q, k, v)), 1.)
    assert not torch.equal(slot_wise, joint[0])


def test_large_products_are_exact():
    """At 2^24 and beyond float32 would round."""
    product = SlotProduct(1, 1., (15, 15, 15), 'count')
    counts = torch.full((1, 64, 32, 32), 15.)
    counts[0, 0, 0, 0] = 14.
    heads = [counts.double().flatten(2).unflatten(1, (1, -1))] * 3
    expected = linear_attention(*heads, 1.).reshape(counts.shape)
    assert expected.max() > 2**24
    assert torch.equal(product(counts, counts, counts), expected.float())
