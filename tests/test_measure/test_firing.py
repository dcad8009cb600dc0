"""Firing rates by hand, and the same from every form of a model."""

import pytest
import torch

from mmqsdt.deploy import to_integer, to_spikes
from mmqsdt.layers import ConvUnit
from mmqsdt.measure.firing import FiringRate, recorded_firing_rates

IE_LIF = dict(type='mmqsdt.IELIF')


def unit(neuron: dict = IE_LIF) -> ConvUnit:
    return ConvUnit(1, 2, 1, neuron).eval()


def test_rates_by_hand():
    model = unit()
    potentials = torch.tensor([-9., 0., .25, .5, .75, 1., 9., .1])
    with recorded_firing_rates(model) as rates:
        model(potentials.view(2, 1, 2, 2))
        model(torch.zeros(1, 1, 2, 1))
    # Counts 0 0 1 2 3 4 4 0, then 0 0; D = 4.
    assert rates == {
        'neuron': FiringRate(levels=4, elements=10, spikes=14, nonzero=5)
    }
    assert rates['neuron'].mean_count == 1.4
    assert rates['neuron'].rate == 1.4 / 4
    assert rates['neuron'].share_nonzero == .5


def test_rates_of_two_neurons_add():
    both = FiringRate(4, 10, 14, 5) + FiringRate(4, 30, 6, 5)
    assert both == FiringRate(4, 40, 20, 10)


def test_a_neuron_that_never_ran_has_rate_zero():
    with recorded_firing_rates(unit()) as rates:
        pass
    assert (rates['neuron'].rate, rates['neuron'].share_nonzero) == (0, 0)


@pytest.mark.parametrize('neuron', [
    IE_LIF,
    dict(IE_LIF, levels=6, threshold=1., amplitude=1.),
    dict(type='mmqsdt.LIF'),
])
def test_every_form_fires_alike(neuron):
    model = unit(neuron)
    x = torch.randn(2, 1, 8, 8) * 2
    results = []
    for form in (model, to_integer(model), to_spikes(model),
                 to_spikes(model, 'bitwise')):
        with recorded_firing_rates(form) as rates:
            form(x)
        results.append(rates)
    assert results[0]['neuron'].spikes > 0
    assert results[1:] == results[:1] * 3


def test_recording_stops():
    model = unit()
    with recorded_firing_rates(model) as rates:
        model(torch.ones(1, 1, 1, 1))
    model(torch.ones(1, 1, 1, 1))
    assert rates['neuron'].elements == 1


def test_an_ann_is_refused():
    with pytest.raises(ValueError, match='not a spiking model'):
        with recorded_firing_rates(unit(dict(type='ReLU'))):
            pass
