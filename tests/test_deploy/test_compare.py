import pytest
import torch
from torch import nn

from mmqsdt.deploy import compare_forms, to_integer, to_spikes
from mmqsdt.deploy.compare import (
    first_flips,
    membrane_potentials,
    recorded_neurons,
    threshold_distance,
)
from mmqsdt.layers import IELIF, LIF, ConvUnit, SpikingNeuron

NEURON = dict(type='mmqsdt.IELIF')


def two_units(neuron=NEURON, time_steps=1):
    units = [ConvUnit(4, 4, 3, neuron, time_steps=time_steps)
             for _ in range(2)]
    for unit in units:  # lively ones
        nn.init.constant_(unit.norm.weight, 2.)
        nn.init.constant_(unit.norm.bias, .3)
    return nn.Sequential(*units).double().eval()


def images(dtype=torch.float64):
    return torch.randn(4, 4, 8, 8, dtype=dtype)


@pytest.mark.parametrize('neuron', [
    IELIF(time_steps=3, leak=.5, threshold=.4),
    IELIF(), LIF(tau=3., threshold=.5, time_steps=3)
], ids=['ielif', 'one step', 'lif'])
def test_potentials_tell_the_counts(neuron):
    x = 2 * torch.randn(6, 50, dtype=torch.float64)
    spikes = neuron(x)
    counts = spikes / neuron.amplitude
    potential = membrane_potentials(neuron, x, counts)
    if isinstance(neuron, LIF):
        fired = (potential >= neuron.threshold).double()
    else:
        fired = neuron.count(potential)
    assert torch.equal(fired, counts)
    assert 0 < counts.mean() < neuron.levels


@pytest.mark.parametrize('neuron, potentials, distances', [
    (IELIF(threshold=.5), [-1., 0., .24, .25, .5, 1.9, 5.],
     [1.25, .25, .01, 0., .25, .15, 3.25]),
    (LIF(threshold=.5), [-1., .4, .5, 2.], [1.5, .1, 0., 1.5]),
], ids=['ielif', 'lif'])
def test_distance_to_where_the_count_would_change(neuron, potentials,
                                                  distances):
    found = threshold_distance(neuron, torch.tensor(potentials))
    # Differences of decimal fractions in float32.
    torch.testing.assert_close(
        found, torch.tensor(distances), rtol=0, atol=1e-6)


def test_first_flips():
    """Time-major: three steps of two elements."""
    flipped = torch.tensor([[0, 1], [1, 1], [1, 0]]).bool().reshape(3, 2)
    first = first_flips(IELIF(time_steps=3), flipped)
    assert first.tolist() == [[False, True], [True, False], [False, False]]


def test_equal_forms():
    model = two_units()
    report = compare_forms(model, to_spikes(model), images())
    assert [n.name for n in report.neurons] == ['0.neuron', '1.neuron']
    assert report.elements == 2 * 4 * 4 * 8 * 8
    assert report.flips == 0 and report.first_flip is None
    assert report.output_error < 1e-12  # float64 sums in another order
    assert str(report).startswith('0 of 2048 spike counts differ')


def test_a_flip_is_found_and_where_it_arose():
    model = two_units()
    other = to_integer(model)
    with torch.no_grad():
        other[0].conv.bias += 1e-2  # potentials of the second neuron
    report = compare_forms(model, other, images())
    first, second = report.neurons
    assert first.flips == 0 < second.flips == report.flips
    assert report.first_flip is second
    assert 0 < second.flip_distance <= second.max_difference
    # The bias was moved by so much; float64 sums in another order.
    assert second.max_difference == pytest.approx(1e-2, abs=1e-12)
    assert report.output_error > 1e-12
    assert 'first at 1.neuron' in str(report)


def test_isolated_neurons_pass_on_the_counts_of_the_float_form():
    model = nn.Sequential(*two_units(), *two_units())
    other = to_integer(model)
    with torch.no_grad():
        other[0].conv.bias += .05
    x = images()
    together = compare_forms(model, other, x)
    assert all(n.flips for n in together.neurons[1:])
    alone = compare_forms(model, other, x, isolate=True)
    assert [bool(n.flips) for n in alone.neurons] == [
        False, True, False, False
    ]
    assert alone.output_error < 1e-12  # float64 sums in another order


def test_a_lif_reports_its_distances():
    model = two_units(dict(type='mmqsdt.LIF', threshold=.1), time_steps=2)
    other = to_spikes(model)
    with torch.no_grad():
        other[0].conv.bias += 1e-2
    report = compare_forms(model, other, images())
    assert report.flips
    assert 0 < report.first_flip.flip_distance <= 1e-2


class Sign(SpikingNeuron):
    """A neuron that this package does not know."""

    levels, amplitude = 1, 1.

    def forward(self, x):
        return (x > 0).to(x.dtype)


def test_an_unknown_neuron_has_no_distance():
    model = two_units()
    model[1].neuron = Sign()
    report = compare_forms(model, to_spikes(model), images())
    assert report.flips == 0
    assert torch.tensor(report.neurons[1].min_distance).isnan()


def test_models_come_back_as_they_were():
    model = two_units().train()
    other = to_integer(model)
    compare_forms(model, other, images())
    assert model.training and not other.training
    assert not any(m._forward_hooks for m in model.modules())


def test_inputs_as_tensor_tuple_or_dict():
    model = two_units()
    other = to_spikes(model)
    x = images()
    for inputs in (x, (x, ), dict(input=x)):
        assert compare_forms(model, other, inputs).elements == 2048


def test_records_of_every_call():
    model = two_units()
    with recorded_neurons(model) as records:
        model(images())
        model(images())
    assert {name: len(calls) for name, calls in records.items()} == {
        '0.neuron': 2, '1.neuron': 2
    }


def test_other_models_are_refused():
    model = two_units()
    with pytest.raises(ValueError, match=r'not two forms of one model: '
                       r'1\.neuron'):
        compare_forms(model, to_integer(model[:1]), images())


class Twice(nn.Module):
    """Runs what it holds on some of its input, as often as it is told."""

    def __init__(self, body, calls, rows):
        super().__init__()
        self.body, self.calls, self.rows = body, calls, rows

    def forward(self, x):
        for _ in range(self.calls):
            out = self.body(x[:self.rows])
        return out


@pytest.mark.parametrize('calls, rows, words', [
    (2, 4, 'runs 1 times in one form, 2 times in the other'),
    (1, 3, r'\(4, 4, 8, 8\) in one form, \(3, 4, 8, 8\) in the other'),
])
def test_other_regions_are_refused(calls, rows, words):
    model = Twice(two_units(), 1, 4)
    other = to_integer(Twice(model.body, calls, rows))
    with pytest.raises(ValueError, match=words):
        compare_forms(model, other, images())


def test_outputs_of_other_shape_differ_infinitely():
    model = two_units()
    other = nn.Sequential(*to_integer(model))
    other.append(nn.MaxPool2d(2))
    report = compare_forms(model, other.eval(), images())
    assert report.output_error == float('inf')
