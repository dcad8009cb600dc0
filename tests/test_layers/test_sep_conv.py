import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmqsdt.layers import IELIF, SepConv

NEURON = dict(type='mmqsdt.IELIF')


@pytest.mark.parametrize('weight_bits', [4, None])
@pytest.mark.parametrize('expansion, kernel_size', [(2, 7), (3, 5)])
def test_equals_its_formula(weight_bits, expansion, kernel_size):
    module = SepConv(
        6,
        NEURON,
        weight_bits,
        expansion=expansion,
        kernel_size=kernel_size).eval()
    for norm in (module.expand.norm, module.norm):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.weight, 1., 2.)
        nn.init.normal_(norm.bias)
    x = torch.rand(2, 6, 9, 8) * 1.5 - 0.2

    def spike(x):
        return torch.floor((4 * x).clamp(0, 4) + 0.5) / 4

    def norm(x, bn):
        return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight,
                            bn.bias)

    width = expansion * 6
    y = F.conv2d(spike(x), module.expand.conv.quantized_weight())
    y = spike(norm(y, module.expand.norm))  # (2, width, 9, 8)
    assert y.unique().numel() > 2
    y = F.conv2d(
        y,
        module.depthwise.quantized_weight(),
        padding=kernel_size // 2,
        groups=width)
    y = norm(F.conv2d(y, module.project.quantized_weight()), module.norm)
    # The same operations in the same order.
    assert torch.equal(module(x), y)


def test_defaults_are_the_published_shapes():
    module = SepConv(8, NEURON)
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in module.named_parameters()
        if parameter.dim() == 4
    }
    assert shapes == {
        'expand.conv.weight': (16, 8, 1, 1),
        'depthwise.weight': (16, 1, 7, 7),
        'project.weight': (8, 16, 1, 1),
    }
    assert not [k for k in module.state_dict() if k.endswith('conv.bias')]
    assert module.depthwise.bias is None and module.project.bias is None


def test_keeps_the_shape_and_learns():
    module = SepConv(4, NEURON, time_steps=2)
    out = module(torch.rand(4, 4, 5, 6))
    assert out.shape == (4, 4, 5, 6)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_arguments_reach_every_part():
    module = SepConv(4, dict(type='mmqsdt.IELIF', levels=2), 3, time_steps=2)
    neurons = [m for m in module.modules() if isinstance(m, IELIF)]
    assert [(m.levels, m.time_steps) for m in neurons] == [(2, 2)] * 2
    bits = [
        module.expand.conv.bits, module.depthwise.bits, module.project.bits
    ]
    assert bits == [3] * 3


def test_float_counterpart():
    module = SepConv(4, dict(type='ReLU'), weight_bits=None)
    assert not [k for k in module.state_dict() if 'step_size' in k]
    assert module(torch.randn(1, 4, 8, 8)).shape == (1, 4, 8, 8)


def test_inner_neuron_stands_in_front_of_the_last_conv():
    module = SepConv(4, NEURON, inner_neuron=True).eval()
    nn.init.constant_(module.inner_norm.bias, .5)
    read = []
    module.project.register_forward_pre_hook(
        lambda _, args: read.append(args[0]))
    out = module(torch.rand(2, 4, 8, 8))
    assert set(read[0].unique().tolist()) <= {0, .25, .5, .75, 1.}
    assert read[0].any()
    assert torch.equal(out, module.norm(module.project(read[0])))
    (module.train()(torch.rand(2, 4, 8, 8)) * torch.randn(2, 4, 8, 8)).sum(
    ).backward()
    assert all(p.grad.any() for p in module.parameters())
