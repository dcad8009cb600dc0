import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmqsdt.layers import IELIF, LIF, IntegerTensor, LSQConv2d, LSQLinear


def spikes(*shape, scale=0.25):
    """Random counts 0..4 as an IntegerTensor, and the floats they are."""
    codes = torch.randint(0, 5, shape, dtype=torch.uint8)
    return IntegerTensor(codes, scale, torch.float32), codes * scale


def potentials(*shape):
    """Of -1..2 in steps of 1/64: ties and both ends of the window occur."""
    return torch.randint(-64, 129, shape) / 64


def chain(neuron, layer, x):
    """Output of a neuron and its reader, and all gradients."""
    x = x.clone().requires_grad_()
    out = layer(neuron(x))
    out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
    return out.detach(), [x.grad, *(p.grad for p in layer.parameters())]


def stored(neuron, layer, storage='bytes'):
    """Copies that store integers."""
    neuron, layer = copy.deepcopy(neuron), copy.deepcopy(layer)
    neuron.storage = storage
    return neuron, layer


# -------------------------------------------------------------- the tensor


@pytest.mark.parametrize('operation', [
    lambda x: x + 1,
    lambda x: (x != 0).float().mean(),
    lambda x: x.flatten(2).unflatten(1, (2, -1)),
    lambda x: x.flatten(2).transpose(1, 2) @ x.flatten(2),
    lambda x: x[:, :1, 1:].unsqueeze(0).expand(3, -1, -1, -1, -1),
    lambda x: x.clone(),
    lambda x: x.detach(),
    lambda x: x.to(torch.bfloat16),
    lambda x: x.double(),
    lambda x: x.long(),
    lambda x: torch.cat([x, x]),
    lambda x: F.max_pool2d(x, 2),
])
@pytest.mark.parametrize('scale', [0.25, 1., 0.3])
def test_operations_see_the_floats(operation, scale):
    x, floats = spikes(2, 4, 3, 5, scale=scale)
    got, expected = operation(x), operation(floats)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    if isinstance(got, IntegerTensor):
        got = got.floats()
    assert torch.equal(got, expected)


def test_views_and_half_precision_stay_integers():
    x, _ = spikes(2, 4, 3, 5)
    for y in (x.flatten(2), x.transpose(0, 1), x[1:], x.bfloat16(),
              x.clone()):
        assert isinstance(y, IntegerTensor) and y.codes.dtype == torch.uint8
    assert x.flatten(2).codes.data_ptr() == x.codes.data_ptr()


def test_channels_last_is_seen_and_kept():
    x, _ = spikes(2, 4, 3, 5)
    y = x.contiguous(memory_format=torch.channels_last)
    for t in (y, y.floats(), y + 1):
        assert t.is_contiguous(memory_format=torch.channels_last)


def test_scales_per_channel_move_with_their_codes():
    codes = torch.randint(-8, 8, (5, 3), dtype=torch.int8)
    step = torch.rand(5, 1)
    x = IntegerTensor(codes, step, torch.float32)
    assert torch.equal(x.t() + 0, (codes * step).t())
    assert isinstance(x.t(), IntegerTensor)
    assert torch.equal(x.view(15) + 0, (codes * step).view(15))


def test_writing_to_it_is_refused():
    x, floats = spikes(2, 3)
    with pytest.raises(NotImplementedError, match='in place'):
        x.add_(1)
    out = torch.zeros(2, 3)
    out.copy_(x)  # reading is not
    assert torch.equal(out, floats)


# ------------------------------------------------- neurons and their readers

NEURONS = [
    dict(),
    dict(amplitude=0.5),
    dict(amplitude=1.3, threshold=0.7),
    dict(threshold=1., amplitude=1., rounding='half_even',
         closed_window=True),
    dict(levels=127, threshold=0.01),
]
LAYERS = {
    '3x3': lambda: LSQConv2d(6, 5, 3, padding=1),
    '3x3/2': lambda: LSQConv2d(6, 5, 3, stride=2, padding=1, bias=False),
    '1x1': lambda: LSQConv2d(6, 5, 1, bias=False),
    'depthwise': lambda: LSQConv2d(6, 6, 7, padding=3, groups=6, bits=8),
    'circular': lambda: LSQConv2d(6, 5, 3, padding_mode='circular'),
    'float': lambda: LSQConv2d(6, 5, 3, bits=None),
}


@pytest.mark.parametrize('options', NEURONS, ids=str)
@pytest.mark.parametrize('kind', LAYERS)
@pytest.mark.parametrize('memory_format', [
    torch.contiguous_format, torch.channels_last])
def test_bytes_change_no_bit(options, kind, memory_format):
    neuron, layer = IELIF(**options), LAYERS[kind]()
    x = potentials(2, 6, 8, 9).contiguous(memory_format=memory_format)
    expected, gradients = chain(neuron, copy.deepcopy(layer), x)
    out, others = chain(*stored(neuron, layer), x)
    assert expected.std() > 0 and all(g.any() for g in gradients)
    assert torch.equal(out, expected)
    assert all(torch.equal(a, b) for a, b in zip(others, gradients))
    assert out.stride() == expected.stride()


@pytest.mark.parametrize('options', NEURONS, ids=str)
@pytest.mark.parametrize('kind', LAYERS)
def test_integer_kernels_equal_float_ones_up_to_rounding(options, kind):
    from mmqsdt.deploy.kernels import find_kernel_obstacle
    if find_kernel_obstacle():
        pytest.skip(find_kernel_obstacle())
    neuron, layer = IELIF(**options), LAYERS[kind]()
    x = potentials(2, 6, 8, 9).contiguous(memory_format=torch.channels_last)
    expected, gradients = chain(neuron, copy.deepcopy(layer), x)
    out, others = chain(*stored(neuron, layer, 'kernel'), x)
    # The sums of one kernel are rounded, those of the other are exact.
    torch.testing.assert_close(
        out, expected, rtol=1e-6, atol=2e-6 * expected.abs().max().item())
    # The forward pass has no part in the gradients of one layer.
    assert all(torch.equal(a, b) for a, b in zip(others, gradients))
    assert out.stride() == expected.stride()


def test_linear_layers_and_empty_batches():
    neuron, layer = IELIF(), LSQLinear(6, 5)
    for x in (potentials(4, 6), torch.zeros(0, 6)):
        expected, gradients = chain(neuron, copy.deepcopy(layer), x)
        out, others = chain(*stored(neuron, layer), x)
        assert torch.equal(out, expected)
        assert all(torch.equal(a, b) for a, b in zip(others, gradients))
    neuron, layer = stored(IELIF(), LSQConv2d(6, 5, 3), 'kernel')
    x = torch.zeros(0, 6, 8, 9).to(memory_format=torch.channels_last)
    assert chain(neuron, layer, x)[0].shape == (0, 5, 6, 7)


def test_one_byte_for_a_spike_and_one_for_a_weight_is_saved():
    neuron, layer = IELIF(), LSQConv2d(8, 8, 3, bias=False)
    x = potentials(2, 8, 10, 10).requires_grad_()

    def saved(neuron, layer):
        """Bytes by dtype of what is not a parameter."""
        found = {}

        def pack(t):
            stores = t.codes if isinstance(t, IntegerTensor) else t
            if not isinstance(t, nn.Parameter):
                found[stores.data_ptr()] = (stores.dtype, stores.nbytes)
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = layer(neuron(x))  # noqa: F841  keeps what was saved
        sums = {}
        for dtype, size in found.values():
            sums[dtype] = sums.get(dtype, 0) + size
        return sums

    elements, weights = x.numel(), layer.weight.numel()
    small = 8 * 4  # a step size for each channel
    plain = saved(neuron, layer)
    assert plain[torch.float32] >= 4 * (elements + weights)
    found = saved(*stored(neuron, layer))
    assert found.pop(torch.float32) <= 3 * small
    assert found == {torch.uint8: elements, torch.int8: elements + weights}


@pytest.mark.parametrize('neuron, shape', [
    (IELIF(time_steps=2), (4, 6, 8, 8)),
    (LIF(time_steps=2), (4, 6, 8, 8)),
    (IELIF(levels=200), (4, 6, 8, 8)),
], ids=['T=2', 'LIF', 'levels=200'])
def test_others_give_plain_floats(neuron, shape):
    neuron = copy.deepcopy(neuron)
    neuron.storage = 'bytes'
    out = neuron(potentials(*shape).requires_grad_())
    assert type(out) is torch.Tensor


def test_without_gradients_nothing_changes():
    neuron, layer = stored(IELIF(), LSQConv2d(6, 5, 3), 'kernel')
    x = potentials(2, 6, 8, 8)
    with torch.no_grad():
        assert type(neuron(x)) is torch.Tensor
        assert type(layer.quantized_weight(True)) is torch.Tensor


@pytest.mark.parametrize('storage', ['bytes', 'kernel'])
def test_under_autocast(storage):
    neuron, layer = IELIF(), LSQConv2d(6, 5, 3)
    x = potentials(2, 6, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected, gradients = chain(neuron, copy.deepcopy(layer), x)
        out, others = chain(*stored(neuron, layer, storage), x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected)
    assert all(torch.equal(a, b) for a, b in zip(others, gradients))


def test_under_checkpointing():
    neuron, layer = IELIF(), LSQConv2d(6, 5, 3)
    x = potentials(2, 6, 8, 8)
    expected, gradients = chain(neuron, copy.deepcopy(layer), x)
    neuron, layer = stored(neuron, layer)
    out, others = chain(
        lambda x: checkpoint(
            lambda x: layer(neuron(x)), x, use_reentrant=False),
        nn.Identity(), x)
    assert torch.equal(out, expected)
    assert torch.equal(others[0], gradients[0])
    assert torch.equal(layer.weight.grad, gradients[1])


def test_copies_after_a_step_and_state_dicts():
    neuron, layer = stored(IELIF(), LSQConv2d(6, 5, 3))
    x = potentials(2, 6, 8, 8)
    out, _ = chain(neuron, layer, x)
    assert set(layer.state_dict()) == {'weight', 'bias', 'step_size'}
    again = copy.deepcopy(nn.Sequential(neuron, layer))
    assert torch.equal(again(x), out)
