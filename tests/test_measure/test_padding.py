"""Products with padding are left out, on both sides alike."""

import pytest
import torch
from torch import nn

from mmqsdt.layers import ConvUnit
from mmqsdt.measure.energy import measure_energy
from mmqsdt.measure.padding import exact_flop_counter, taps_inside

IE_LIF = dict(type='mmqsdt.IELIF')


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('axes, settings', [
    (1, dict(kernel_size=5, padding=2)),
    (2, dict(kernel_size=1)),
    (2, dict(kernel_size=3, padding=1)),
    (2, dict(kernel_size=7, padding=3, stride=2, groups=4)),
    (2, dict(kernel_size=(3, 5), padding=(4, 2), stride=(3, 1),
             dilation=(2, 1))),
    (2, dict(kernel_size=2, stride=2, groups=2)),
    (3, dict(kernel_size=3, padding=1, dilation=2, groups=2)),
])
def test_products_by_brute_force(axes, settings, transposed):
    """A conv of ones over ones puts out how many taps lie inside."""
    kind = f'Conv{"Transpose" * transposed}{axes}d'
    conv = getattr(nn, kind)(4, 8, bias=False, **settings)
    nn.init.ones_(conv.weight)
    x = torch.ones(2, 4, *(9, 6, 7)[:axes])
    with exact_flop_counter() as counter, torch.no_grad():
        out = conv(x)
    assert counter.get_total_flops() == 2 * out.double().sum() > 0


def test_padding_as_a_word():
    conv = nn.Conv2d(2, 3, 3, padding='same', bias=False)
    nn.init.ones_(conv.weight)
    with exact_flop_counter() as counter, torch.no_grad():
        out = conv(torch.ones(1, 2, 5, 4))
    assert counter.get_total_flops() == 2 * out.sum()


def test_a_kernel_larger_than_the_map():
    # Three positions on an axis of 1, seven taps: the middle meets it at all
    # of them.
    assert taps_inside(1, 7, 1, 4, 1, 3) == 3
    assert taps_inside(1, 3, 1, 5, 1, 9) == 3


def test_both_sides_are_counted_alike():
    """Where every neuron fires once, additions are products."""
    model = nn.Sequential(*(
        ConvUnit(4, 4, kernel, dict(IE_LIF, levels=1))
        for kernel in (3, 7))).eval()
    # Weights and inputs with which all potentials are far above 1.
    for unit in model:
        nn.init.ones_(unit.conv.weight)
    report = measure_energy(model, [torch.ones(2, 4, 6, 5)])
    for layer in report.layers:
        assert layer.firing_rate == 1
        assert layer.macs < layer.padded_macs
        assert layer.counted == dict.fromkeys(
            ('thermometer', 'bitwise'), dict(ac=layer.macs, mac=0))
        assert layer.synaptic_operations == layer.macs
    assert report.ratios()['formula'] == pytest.approx(4.6 / .9)
