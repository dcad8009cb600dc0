import pytest
import torch
from torch import nn

from mmqsdt.deploy.fold import (
    FoldedConv,
    FoldedLinear,
    fold,
    norm_gain_and_shift,
)
from mmqsdt.deploy.operations import Spikes
from mmqsdt.deploy.program import WeightLayer
from mmqsdt.deploy.spikes import encode, slot_weights
from mmqsdt.layers import IELIF, LIF, BatchNormPad, LSQConv2d, LSQLinear

FOUR = Spikes.of(IELIF())
# One affine map, its operations in another order, in float64.
REORDERED = dict(rtol=1e-12, atol=1e-12)


def used(norm):
    """A batch norm after training."""
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, .5, 2.)
    if norm.affine:
        nn.init.uniform_(norm.weight, -2., 2.)
        nn.init.normal_(norm.bias)
    return norm.double().eval()


def spikes(neuron, *shape):
    return torch.randint(neuron.levels + 1, shape).double()


def slots(counts, levels, encoding):
    return counts if encoding == 'count' else encode(counts, levels, encoding)


@pytest.mark.parametrize('affine', [True, False])
def test_a_norm_is_a_gain_and_a_shift(affine):
    norm = used(nn.BatchNorm2d(5, affine=affine))
    gain, shift = norm_gain_and_shift(norm)
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(
        x * gain.view(-1, 1, 1) + shift.view(-1, 1, 1), norm(x), **REORDERED)


def test_a_norm_of_the_batch_is_refused():
    with pytest.raises(ValueError, match='track_running_stats=True'):
        norm_gain_and_shift(nn.BatchNorm2d(5, track_running_stats=False))


@pytest.mark.parametrize('encoding', ['count', 'thermometer', 'bitwise'])
@pytest.mark.parametrize('bits', [2, 3, 4, 8, None])
@pytest.mark.parametrize('neuron', [IELIF(), IELIF(7, amplitude=.3), LIF()],
                         ids=['four', 'seven', 'lif'])
def test_conv_with_bias_and_two_norms(neuron, bits, encoding):
    conv = LSQConv2d(
        6, 8, 3, stride=2, padding=1, groups=2, bits=bits).double()
    norms = used(nn.BatchNorm2d(8)), used(nn.BatchNorm2d(8))
    counts = spikes(neuron, 2, 6, 7, 9)
    expected = nn.Sequential(conv, *norms)(counts * neuron.amplitude)
    folded = fold(WeightLayer(conv, Spikes.of(neuron), norms), encoding).eval()
    assert isinstance(folded, FoldedConv)
    assert folded.slot_weights == slot_weights(neuron.levels, encoding)
    assert folded.weight.dtype == (torch.int8 if bits else torch.float64)
    torch.testing.assert_close(
        folded(slots(counts, neuron.levels, encoding)), expected, **REORDERED)


@pytest.mark.parametrize('padding', [1, 2])
def test_the_border_of_a_norm_is_where_no_spike_is(padding):
    conv = LSQConv2d(4, 4, 1, bias=False).double()
    norm = used(BatchNormPad(4, padding).bn)
    pad = BatchNormPad(4, padding).double().eval()
    pad.bn = norm
    counts = spikes(IELIF(), 2, 4, 5, 6)
    folded = fold(WeightLayer(conv, FOUR, (pad, )), 'count').eval()
    torch.testing.assert_close(
        folded(counts), pad(conv(counts / 4)), **REORDERED)


@pytest.mark.parametrize('encoding', ['count', 'thermometer', 'bitwise'])
def test_linear(encoding):
    linear = LSQLinear(6, 5).double()
    counts = spikes(IELIF(), 3, 6)
    folded = fold(WeightLayer(linear, FOUR), encoding).eval()
    assert isinstance(folded, FoldedLinear)
    torch.testing.assert_close(
        folded(slots(counts, 4, encoding)), linear(counts / 4), **REORDERED)


def test_a_layer_that_reads_real_values():
    conv = LSQConv2d(3, 4, 3).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    folded = fold(WeightLayer(conv), 'thermometer').eval()
    assert folded.levels is None
    torch.testing.assert_close(folded(x), conv(x), **REORDERED)


def test_sums_beyond_float32_stay_exact():
    linear = LSQLinear(20000, 1, bits=8, bias=False)
    nn.init.constant_(linear.weight, 1.)
    linear.weight.data[0, :2] = torch.tensor([-.013, .02])
    linear.reset_step_size()
    linear.step_size.data.fill_(1 / 127)
    folded = fold(WeightLayer(linear, Spikes.of(IELIF(15))), 'count').eval()
    assert folded.largest_sum() > 2**24
    folded.scale.fill_(1.)
    counts = torch.randint(16, (4, 20000)).float()
    exact = counts.long() @ folded.weight.long().t()
    assert (exact % 2).any()
    assert torch.equal(folded(counts).long(), exact.float().long())


def test_half_precision_holds_the_sums():
    """Codes times counts exceed 65504 long before their scaled sum does."""
    linear = LSQLinear(4096, 2, bits=8, bias=False)
    nn.init.constant_(linear.weight, .01)
    linear = linear.half()
    counts = torch.full((1, 4096), 4.).half()
    entry = WeightLayer(linear, Spikes.of(IELIF(amplitude=1.)))
    folded = fold(entry, 'count').eval()
    assert folded.largest_sum() > 65504
    out = folded(counts)
    assert out.dtype == torch.float16
    # The result itself has 11 bits.
    torch.testing.assert_close(
        out.float(), linear.float()(counts.float()), rtol=1e-3, atol=0)


def test_real_values_where_spikes_were_expected_are_refused():
    folded = fold(WeightLayer(LSQLinear(4, 4), FOUR), 'count').eval()
    with pytest.raises(ValueError, match=r'integers 0\.\.4'):
        folded(torch.rand(2, 4))
    with pytest.raises(ValueError, match=r'integers 0\.\.1'):
        fold(WeightLayer(LSQLinear(4, 4), FOUR),
             'thermometer').eval()(torch.full((8, 4), 2.))


def test_training_is_refused():
    folded = fold(WeightLayer(LSQLinear(4, 4), FOUR), 'count').eval()
    with pytest.raises(RuntimeError, match='for inference'):
        folded.train()


def test_other_padding_is_refused():
    conv = LSQConv2d(4, 4, 3, padding=1, padding_mode='reflect')
    with pytest.raises(ValueError, match="padding_mode='reflect'"):
        fold(WeightLayer(conv), 'count')


def test_other_layers_are_refused():
    layer = nn.Bilinear(2, 2, 2)
    with pytest.raises(ValueError, match='Bilinear has no inference form'):
        fold(WeightLayer(layer), 'count')
