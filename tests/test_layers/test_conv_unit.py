import pytest
import torch

from mmqsdt.layers import IELIF, ConvUnit

NEURON = dict(type='mmqsdt.IELIF')


@pytest.mark.parametrize('kernel_size', [1, 3, 7])
@pytest.mark.parametrize('stride', [1, 2])
def test_padding_keeps_the_size_up_to_the_stride(kernel_size, stride):
    unit = ConvUnit(3, 5, kernel_size, NEURON, stride=stride)
    out = unit(torch.rand(2, 3, 8, 12))
    assert out.shape == (2, 5, 8 // stride, 12 // stride)


def test_order_is_neuron_conv_norm():
    unit = ConvUnit(3, 5, 3, NEURON)
    x = torch.rand(2, 3, 6, 6) * 1.5 - 0.2
    spikes = torch.floor((4 * x).clamp(0, 4) + 0.5) / 4
    assert not torch.equal(spikes, x)
    out = unit(x)
    # In training mode a norm at the end leaves mean 0 and variance 1.
    torch.testing.assert_close(
        out.mean((0, 2, 3)), torch.zeros(5), rtol=0, atol=1e-6)
    unit.eval()
    # The same operations in the same order.
    assert torch.equal(unit(x), unit.norm(unit.conv(spikes)))


def test_without_a_neuron_the_input_is_read_as_it_is():
    unit = ConvUnit(3, 5, 3, None).eval()
    assert unit.neuron is None
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(unit(x), unit.norm(unit.conv(x)))
    assert not torch.equal(unit(x), unit(x.clamp(min=0)))


def test_equals_the_published_strided_convolution(golden):
    vectors = golden('units', 'conv2d/')
    unit = ConvUnit(6, 10, 3, None, stride=2, bias=True).eval()
    unit.conv.load_state_dict(
        dict(
            weight=vectors['weight'],
            bias=vectors['bias'],
            step_size=vectors['alpha']))
    # A fresh norm in eval divides by sqrt(1 + eps). Sums of 54 products in
    # another order: float32 rounding.
    torch.testing.assert_close(
        unit(vectors['x']), vectors['out'] / (1 + 1e-5)**0.5, rtol=1e-5,
        atol=1e-5)


@pytest.mark.parametrize('bias', [False, True])
def test_bias_is_optional(bias):
    unit = ConvUnit(3, 5, 3, NEURON, bias=bias)
    assert ('conv.bias' in unit.state_dict()) == bias


def test_arguments_reach_every_part():
    unit = ConvUnit(
        3, 5, 1, dict(type='mmqsdt.IELIF', levels=2), 8, time_steps=2)
    assert isinstance(unit.neuron, IELIF)
    assert (unit.neuron.levels, unit.neuron.time_steps) == (2, 2)
    assert unit.conv.bits == 8
    assert 'conv.step_size' not in ConvUnit(3, 5, 1, NEURON, None).state_dict()


def test_the_norm_sees_all_time_steps_at_once():
    unit = ConvUnit(3, 5, 1, NEURON, time_steps=2)
    seen = []
    unit.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    unit(torch.rand(6, 3, 4, 4))
    assert [tuple(x.shape) for x in seen] == [(6, 5, 4, 4)]


def test_learns():
    unit = ConvUnit(3, 5, 3, NEURON, bias=False)
    out = unit(torch.rand(2, 3, 6, 6))
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in unit.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
