import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmqsdt.deploy.kernels import find_kernel_obstacle
from mmqsdt.layers import IELIF, LSQConv2d
from mmqsdt.layers.pointwise import (
    MAX_PIXELS,
    PointwiseConv,
    wants_matrix_product,
)


def channels_last(*shape):
    return torch.randn(shape).to(memory_format=torch.channels_last)


def test_its_gradients_are_those_of_the_product():
    x = channels_last(2, 3, 4, 5).double().requires_grad_()
    weight = torch.randn(6, 3, 1, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(PointwiseConv.apply, (x, weight))


@pytest.mark.parametrize('shape', [(2, 64, 7, 9), (1, 5, 1, 1), (4, 3, 1, 8)])
def test_it_is_a_convolution(shape):
    x = channels_last(*shape)
    weight = torch.randn(16, shape[1], 1, 1)
    upstream = channels_last(shape[0], 16, *shape[2:])
    results = []
    for conv in (F.conv2d, PointwiseConv.apply):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        out = conv(*leaves)
        out.backward(upstream)
        results.append((out.detach(), *(leaf.grad for leaf in leaves)))
    for a, b in zip(*results):
        # Float32 sums in another order.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert results[1][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('learns', [0, 1])
def test_frozen_sides_get_no_gradient(learns):
    sides = [channels_last(1, 3, 4, 4), torch.randn(2, 3, 1, 1)]
    sides[learns].requires_grad_()
    PointwiseConv.apply(*sides).sum().backward()
    assert sides[learns].grad.any() and sides[1 - learns].grad is None


def test_what_it_puts_out_may_be_changed_in_place():
    """As an activation of an mm module does."""
    layer, x = LSQConv2d(256, 256, 1, bias=False), channels_last(1, 256, 4, 4)
    out = layer(x)
    assert torch.equal(out.clone().relu(), out.relu_())
    out.sum().backward()
    assert layer.weight.grad.any()


@pytest.mark.parametrize('storage', ['bytes', 'kernel'])
def test_spikes_stored_as_integers_have_the_same_gradients(storage):
    if storage == 'kernel' and find_kernel_obstacle():
        pytest.skip(find_kernel_obstacle())
    layer, neuron = LSQConv2d(256, 256, 1, bias=False), IELIF()
    upstream = channels_last(2, 256, 4, 4)
    start, results = channels_last(2, 256, 4, 4), []
    for neuron.storage in ('floats', storage):
        layer.zero_grad()
        x = start.clone().requires_grad_()
        out = layer(neuron(x))
        out.backward(upstream)
        results.append((out.detach(), x.grad, layer.weight.grad,
                        layer.step_size.grad))
    (expected, *gradients), (out, *others) = results
    # The integer kernel's sums are exact, those of floats are rounded.
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert storage == 'kernel' or torch.equal(out, expected)
    assert all(torch.equal(a, b) for a, b in zip(others, gradients))


def test_a_wrong_number_of_channels_is_named():
    layer = LSQConv2d(256, 256, 1, bias=False)
    with pytest.raises(RuntimeError, match='300 channels'):
        layer(channels_last(1, 300, 4, 4))


def test_a_training_layer_takes_it_and_evaluation_does_not():
    layer = LSQConv2d(256, 258, 1, bias=False)
    x = IELIF()(channels_last(2, 256, 4, 4))
    out = layer(x)
    assert type(out.grad_fn).__name__ == 'PointwiseConvBackward'
    expected = F.conv2d(x, layer.quantized_weight())
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(layer(x), expected)


def pointwise(*args, kernel_size=1, bias=False, **kwargs):
    return nn.Conv2d(*(args or (256, 256)), kernel_size, bias=bias, **kwargs)


SMALL = (1, 256, 8, 8)


@pytest.mark.parametrize('conv, x', [
    (pointwise(kernel_size=3), channels_last(*SMALL)),
    (pointwise(stride=2), channels_last(*SMALL)),
    (pointwise(padding=1), channels_last(*SMALL)),
    (pointwise(groups=2), channels_last(*SMALL)),
    (pointwise(bias=True), channels_last(*SMALL)),
    (pointwise(256, 128), channels_last(*SMALL)),
    (pointwise(), torch.randn(SMALL)),
    (pointwise(), channels_last(*SMALL).double()),
    (pointwise(), torch.randn(256, 8, 8)),
    (pointwise(), channels_last(0, 256, 8, 8)),
    (pointwise(), channels_last(1, 256, MAX_PIXELS, 2)),
], ids=['3x3', 'stride', 'padding', 'groups', 'bias', 'narrow', 'contiguous',
        'double', 'no batch', 'empty', 'large'])
def test_other_convs_and_maps_are_left_to_onednn(conv, x):
    assert not wants_matrix_product(conv, x)
    assert wants_matrix_product(
        pointwise(), channels_last(*SMALL))


def test_neither_under_autocast_nor_without_gradients():
    conv, x = pointwise(), channels_last(*SMALL)
    with torch.autocast('cpu', torch.bfloat16):
        assert not wants_matrix_product(conv, x)
    with torch.no_grad():
        assert not wants_matrix_product(conv, x)


def test_float_layers_are_plain_convolutions():
    layer = LSQConv2d(256, 258, 1, bias=False, bits=None)
    x = channels_last(2, 256, 4, 4)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight))
