import pytest
import torch
from torch import nn

from mmqsdt.checkpoints.convert import convert_reference_checkpoint
from mmqsdt.layers import IELIF, SpikeAttention, linear_attention


def spikes(*shape):
    """Random spikes of the backbone's neuron."""
    return torch.randint(0, 5, shape) / 4


def naive_attention(q, k, v, scale):
    """scale * (q k^T) v for (B, heads, d, N), the N x N matrix built."""
    q, k, v = (x.transpose(-2, -1) for x in (q, k, v))  # (B, heads, N, d)
    scores = q @ k.transpose(-2, -1)  # (B, heads, N, N)
    return (scores @ v * scale).transpose(-2, -1)


def calibrated(attention, x):
    """In eval, its norms set to the statistics of x, so that all fires."""
    for norm in attention.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.
    attention.train()(x)
    return attention.eval()


@pytest.mark.parametrize('tokens, width', [(6, 4), (4, 6), (1, 3), (49, 8)])
def test_linear_attention_equals_the_quadratic_form(tokens, width):
    q, k, v = (spikes(2, 3, width, tokens) for _ in range(3))
    # Spikes are quarters: every sum is exact, whatever the order.
    assert torch.equal(
        linear_attention(q, k, v, 0.25), naive_attention(q, k, v, 0.25))


def test_linear_attention_of_real_values_with_a_wider_v():
    q, k = torch.randn(2, 2, 3, 5, 7, dtype=torch.float64)
    v = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    out = linear_attention(q, k, v, 0.1)
    assert out.shape == (2, 3, 9, 7) and out.dtype == torch.float64
    # Sums in another order, in float64.
    torch.testing.assert_close(
        out, naive_attention(q, k, v, 0.1), rtol=1e-12, atol=1e-12)


def test_scale_is_a_plain_factor():
    q, k, v = (spikes(1, 2, 4, 9) for _ in range(3))
    once = linear_attention(q, k, v, 1.)
    assert once.abs().max() > 0
    assert torch.equal(linear_attention(q, k, v, 0.25), once * 0.25)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('cast_inputs', [False, True])
def test_attention_stays_exact_under_autocast(dtype, cast_inputs):
    q, k, v = (spikes(1, 2, 8, 1024) for _ in range(3))
    expected = naive_attention(q.double(), k.double(), v.double(), 0.25)
    # The sums do not fit the half precision type: rounding would show.
    assert not torch.equal(expected.to(dtype).double(), expected)
    if cast_inputs:  # as they leave a neuron under autocast
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    with torch.autocast('cpu', dtype=dtype):
        out = linear_attention(q, k, v, 0.25)
    assert out.dtype == torch.float32
    assert torch.equal(out.double(), expected)


def test_channel_c_of_head_h_is_h_times_width_plus_c():
    attention = SpikeAttention(12, num_heads=3)
    channel = torch.arange(12.).view(1, 12, 1, 1).expand(2, 12, 2, 3)
    heads = attention.split_heads(channel)
    assert heads.shape == (2, 3, 4, 6)
    assert heads[1, :, :, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7],
                                          [8, 9, 10, 11]]


def test_tokens_are_pixels_row_by_row():
    attention = SpikeAttention(4, num_heads=2)
    pixel = torch.arange(6.).view(1, 1, 2, 3).expand(1, 4, 2, 3)
    heads = attention.split_heads(pixel)
    assert heads[0, 1, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_equals_the_published_attention(golden):
    # The converter knows the block's names; give it this one attention.
    prefix = 'block3.0.attn.'
    state = convert_reference_checkpoint(
        {
            prefix + key: value
            for key, value in golden('units', 'attention/state/').items()
        },
        backbone_only=True)
    attention = SpikeAttention(16, num_heads=4).eval()
    attention.load_state_dict({
        key.removeprefix('stages.3.blocks.0.attn.'): value
        for key, value in state.items()
    })
    fired = {}
    for name in ('neuron', 'q_neuron', 'k_neuron', 'v_neuron', 'attn_neuron'):
        attention.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: fired.update({name: out}))

    vectors = golden('units', 'attention/')
    # The published neurons keep no membrane: T = 2 is a batch of T * B.
    out = attention(vectors['x'].flatten(0, 1))
    for name, published in dict(
            neuron='head_lif',
            q_neuron='q_lif',
            k_neuron='k_lif',
            v_neuron='v_lif',
            attn_neuron='attn_lif').items():
        expected = vectors[f'neuron/{published}'].flatten(0, 1)
        assert torch.equal(fired[name].view_as(expected), expected), name
        assert expected.unique().numel() > 2, name
    # Convolutions sum in another order: float32 rounding.
    torch.testing.assert_close(
        out, vectors['out'].flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_neuron_behind_attention_has_twice_the_amplitude():
    config = dict(type='mmqsdt.IELIF', amplitude=0.5)
    attention = SpikeAttention(8, 2, config, time_steps=2)
    amplitudes = {
        name: module.amplitude
        for name, module in attention.named_children()
        if isinstance(module, IELIF)
    }
    assert amplitudes == dict(
        neuron=0.5, q_neuron=0.5, k_neuron=0.5, v_neuron=0.5, attn_neuron=1.)
    assert all(m.time_steps == 2 for m in attention.modules()
               if isinstance(m, IELIF))


def test_scale_reaches_the_neuron_behind_attention():
    x = torch.randn(2, 8, 3, 4)
    attention = calibrated(SpikeAttention(8, 2, scale=0.5), x)
    seen = {}
    for name in ('q_neuron', 'k_neuron', 'v_neuron'):
        attention.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out}))
    attention.attn_neuron.register_forward_pre_hook(
        lambda _, args: seen.update(y=args[0]))
    attention(x)
    q, k, v = (
        seen[name].flatten(2).unflatten(1, (2, 4))
        for name in ('q_neuron', 'k_neuron', 'v_neuron'))
    assert seen['y'].abs().max() > 0
    assert torch.equal(seen['y'],
                       naive_attention(q, k, v, 0.5).reshape(2, 8, 3, 4))


@pytest.mark.parametrize('time_steps', [1, 2])
def test_samples_do_not_attend_to_each_other(time_steps):
    x = torch.randn(time_steps, 3, 8, 4, 4)
    attention = calibrated(
        SpikeAttention(8, 2, time_steps=time_steps), x.flatten(0, 1))
    changed = x.clone()
    changed[:, 1] = torch.randn(time_steps, 8, 4, 4)
    with torch.no_grad():
        before, after = (
            attention(data.flatten(0, 1)).unflatten(0, (time_steps, 3))
            for data in (x, changed))
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_every_parameter_learns():
    attention = SpikeAttention(8, 2)
    x = (torch.randn(2, 8, 4, 4) + 0.5).requires_grad_()
    out = attention(x)
    assert out.shape == x.shape
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert x.grad.any()


def test_float_counterpart_has_no_spikes_and_no_steps():
    attention = SpikeAttention(
        8, 2, neuron=dict(type='ReLU'), weight_bits=None)
    assert isinstance(attention.attn_neuron, nn.ReLU)
    assert not [k for k in attention.state_dict() if 'step_size' in k]
    assert attention(torch.randn(2, 8, 4, 4)).shape == (2, 8, 4, 4)


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match='10 channels .* 4 heads'):
        SpikeAttention(10, num_heads=4)
