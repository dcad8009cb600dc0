import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmqsdt.checkpoints.convert import convert_reference_checkpoint
from mmqsdt.layers import IELIF, BatchNormPad, RepConv


def randomize_norms(module):
    """Give every batch norm statistics and an affine map of its own."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.)
            nn.init.uniform_(norm.weight, 0.5, 2.)
            nn.init.normal_(norm.bias)


def golden_norm_pad(golden):
    module = BatchNormPad(6)
    module.load_state_dict(golden('units', 'bnpad/state/'))
    return module, golden('units', 'bnpad/')


def golden_rep_conv(golden):
    # The converter knows the block's names; give it this one convolution.
    state = convert_reference_checkpoint(
        {
            f'block3.0.attn.q_conv.0.{key}': value
            for key, value in golden('units', 'repconv/state/').items()
        },
        backbone_only=True)
    module = RepConv(8)
    module.load_state_dict({
        key.removeprefix('stages.3.blocks.0.attn.q_conv.'): value
        for key, value in state.items()
    })
    return module, golden('units', 'repconv/')


def test_norm_pad_equals_the_published_one_in_eval(golden):
    module, vectors = golden_norm_pad(golden)
    # One affine map, its operations in another order: float32 rounding.
    torch.testing.assert_close(
        module.eval()(vectors['x']), vectors['eval_out'], rtol=1e-6, atol=1e-6)


def test_norm_pad_equals_the_published_one_in_training(golden):
    module, vectors = golden_norm_pad(golden)
    x = vectors['x'].requires_grad_()
    out = module.train()(x)
    out.backward(vectors['upstream'])
    # Batch statistics summed in another order: float32 rounding.
    close = dict(rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out, vectors['train_out'], **close)
    torch.testing.assert_close(x.grad, vectors['train_grad_x'], **close)
    bn = module.bn
    for ours, name in ((bn.weight.grad, 'train_grad_weight'),
                       (bn.bias.grad, 'train_grad_bias'),
                       (bn.running_mean, 'after_running_mean'),
                       (bn.running_var, 'after_running_var')):
        torch.testing.assert_close(ours, vectors[name], **close)


@pytest.mark.parametrize('padding', [1, 2])
def test_border_is_the_norm_of_zero(padding):
    module = BatchNormPad(5, padding).double().eval()
    randomize_norms(module)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    out = module(x)
    assert out.shape == (2, 5, 3 + 2 * padding, 4 + 2 * padding)
    # One affine map, its operations in another order, in float64.
    torch.testing.assert_close(
        out, module.bn(F.pad(x, [padding] * 4)), rtol=1e-12, atol=1e-12)


def test_border_follows_the_statistics_of_this_very_batch():
    module = BatchNormPad(4).train()
    x = 3 + 2 * torch.randn(2, 4, 5, 5)
    out = module(x)
    # momentum 0.1, from mean 0 and variance 1
    mean = 0.1 * x.mean((0, 2, 3))
    var = 0.9 + 0.1 * x.transpose(0, 1).flatten(1).var(1)
    # Means of 50 numbers in another order: float32 rounding.
    torch.testing.assert_close(
        out[0, :, 0, 0], -mean / (var + 1e-5).sqrt(), rtol=1e-5, atol=1e-6)


def test_no_gradient_passes_the_border():
    module = BatchNormPad(4).train()
    randomize_norms(module)
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    upstream = torch.zeros(2, 4, 5, 5)
    upstream[:, :, 0] = upstream[:, :, -1] = 1
    upstream[..., 0] = upstream[..., -1] = 1
    module(x).backward(upstream)
    for grad in (x.grad, module.bn.weight.grad, module.bn.bias.grad):
        assert not grad.any()


def test_border_keeps_a_half_precision_input():
    module = BatchNormPad(4).eval().to(torch.bfloat16)
    out = module(torch.randn(1, 4, 3, 3, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_rep_conv_equals_the_published_one(golden, mode):
    module, vectors = golden_rep_conv(golden)
    out = module.train(mode == 'train')(vectors['x'])
    # Convolutions and statistics summed in another order.
    torch.testing.assert_close(
        out, vectors[f'{mode}_out'], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('weight_bits', [4, None])
def test_rep_conv_is_one_zero_padded_3x3_convolution(weight_bits):
    module = RepConv(4, weight_bits).double().eval()
    randomize_norms(module)
    with torch.no_grad():
        bias = module(torch.zeros(1, 4, 5, 5).double())
        # Without the border, the answer to zero would differ at the edge.
        torch.testing.assert_close(
            bias, bias[..., 2:3, 2:3].expand_as(bias), rtol=1e-12, atol=1e-12)
        bias = bias[0, :, 2, 2]
        # The kernel, read from the answers to one impulse per channel.
        impulses = torch.zeros(4, 4, 3, 3).double()
        impulses[range(4), range(4), 1, 1] = 1
        answers = module(impulses) - bias.view(1, -1, 1, 1)
        kernel = answers.transpose(0, 1).flip(-2, -1)
        x = torch.randn(2, 4, 6, 7).double()
        # Float64 sums in another order.
        torch.testing.assert_close(
            module(x), F.conv2d(x, kernel, bias, padding=1), rtol=1e-10,
            atol=1e-10)


@pytest.mark.parametrize('weight_bits', [2, 4, None])
def test_rep_conv_keeps_the_shape_and_learns(weight_bits):
    module = RepConv(6, weight_bits)
    out = module(torch.randn(2, 6, 5, 4))
    assert out.shape == (2, 6, 5, 4)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    bits = [
        module.pointwise1.bits, module.depthwise.bits, module.pointwise2.bits
    ]
    assert bits == [weight_bits] * 3


@pytest.mark.parametrize('time_steps', [1, 2])
def test_inner_neurons_stand_in_front_of_the_inner_convs(time_steps):
    neuron = dict(type='mmqsdt.IELIF')
    module = RepConv(6, 4, neuron, time_steps).double().eval()
    randomize_norms(module)
    x = torch.randint(5, (4, 6, 5, 7)).double() / 4
    read = []
    for conv in (module.depthwise, module.pointwise2):
        conv.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    out = module(x)
    spike = IELIF(time_steps=time_steps)
    y = spike(module.norm_pad(module.pointwise1(x)))
    assert torch.equal(read[0], y)
    y = spike(module.inner_norm(module.depthwise(y)))
    assert torch.equal(read[1], y)
    values = [set(z.unique().tolist()) for z in read]
    assert all(1 < len(v) and v <= {0, .25, .5, .75, 1.} for v in values)
    assert torch.equal(out, module.norm(module.pointwise2(y)))


def test_published_weights_load_into_inner_neurons(golden):
    published, _ = golden_rep_conv(golden)
    module = RepConv(8, 4, dict(type='mmqsdt.IELIF'))
    missing, unexpected = module.load_state_dict(
        published.state_dict(), strict=False)
    assert unexpected == []
    assert missing and all(key.startswith('inner_norm.') for key in missing)
