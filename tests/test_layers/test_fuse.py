"""Nobody uses a quantized weight behind its step: tools of others."""

from copy import deepcopy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.utils import fuse_conv_bn
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from mmqsdt import QSDTransformer
from mmqsdt.deploy import to_integer
from mmqsdt.layers import LSQConv2d, LSQLinear, LSQWeight
from mmqsdt.models import SpikeFPN

BITS = (2, 3, 4, 8)
CONV_CFG = dict(type='mmqsdt.LSQConv2d')
# One rounding of float32 a weight more or less, in sums of up to a hundred
# terms; what a weight behind its step makes is 0.1 and more.
ROUNDING = dict(rtol=1e-5, atol=1e-5)


def randomize(module: nn.Module, negative: bool = False) -> nn.Module:
    """Batch norms as training leaves them, in eval mode."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(norm.weight, .5, 2.)
            nn.init.uniform_(norm.bias, -.5, .5)
            norm.running_mean.uniform_(-.5, .5)
            norm.running_var.uniform_(.5, 2.)
            if negative:
                norm.weight.data[::2] *= -1
    return module.eval()


def by_mmcv(unit: nn.Module) -> nn.Module:
    return fuse_conv_bn(deepcopy(unit))


def by_torch(unit: nn.Module) -> nn.Module:
    tool = fuse_conv_bn_eval if isinstance(unit[0], nn.Conv2d) \
        else fuse_linear_bn_eval
    return tool(*unit)


def conv(**kwargs) -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(LSQConv2d(4, 8, 3, padding=1, **kwargs),
                         nn.BatchNorm2d(8)), torch.randn(2, 4, 6, 6)


def depthwise(**kwargs) -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(LSQConv2d(8, 8, 3, groups=8, **kwargs),
                         nn.BatchNorm2d(8)), torch.randn(2, 8, 6, 6)


def linear(**kwargs) -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(LSQLinear(6, 8, **kwargs),
                         nn.BatchNorm1d(8)), torch.randn(5, 6)


TOOLS = [(by_mmcv, conv), (by_mmcv, depthwise), (by_torch, conv),
         (by_torch, depthwise), (by_torch, linear)]


def avoid_lowest(layer: LSQWeight) -> None:
    """Leave out the code that has no counterpart."""
    step = layer.positive_step_size().view(
        -1, *[1] * (layer.weight.dim() - 1))
    layer.weight.data = torch.maximum(layer.weight, layer.qmin * step + step)


@pytest.mark.parametrize('negative', [False, True])
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('tool, make', TOOLS)
@torch.no_grad()
def test_folding_gives_equal_outputs(tool, make, bits, bias, negative):
    unit, x = make(bits=bits, bias=bias)
    randomize(unit, negative)
    unit[0].settle_step_size()
    avoid_lowest(unit[0])
    before, codes = unit(x), unit[0].integer_weight()
    folded = tool(unit)
    torch.testing.assert_close(folded(x), before, **ROUNDING)
    layer = next(m for m in folded.modules() if isinstance(m, LSQWeight))
    sign = unit[1].weight.sign().to(torch.int8).view(
        -1, *[1] * (codes.dim() - 1))
    assert torch.equal(layer.integer_weight(), sign * codes)
    # And on disk.
    other = type(layer)(*codes.shape[1::-1], bits=bits) \
        if make is linear else make(bits=bits)[0][0]
    if other.bias is None:
        other.bias = nn.Parameter(torch.zeros(8))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer(x))


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('tool, make', TOOLS)
@torch.no_grad()
def test_a_code_without_counterpart_is_refused(tool, make, bits):
    unit, x = make(bits=bits)
    randomize(unit, negative=True)
    unit[0].settle_step_size()
    unit[0].weight[0] = -100.
    before = unit(x)
    with pytest.raises(ValueError, match=f'turns code {unit[0].qmin} of a '
                       rf'{bits}-bit .*mmqsdt\.deploy\.to_integer'):
        tool(unit)
    assert torch.equal(unit(x), before)


@torch.no_grad()
def test_channels_of_zero():
    """Of a norm, and of the weights: what was zero stays zero."""
    unit, x = conv()
    randomize(unit)
    unit[0].settle_step_size()
    unit[1].weight[0] = 0
    unit[0].weight[1] = 0
    folded = by_torch(unit)
    torch.testing.assert_close(folded(x), unit(x), **ROUNDING)
    assert (folded.positive_step_size() > 0).all()


@pytest.mark.parametrize('bits', [4, None])
@torch.no_grad()
def test_a_backbone_as_mmcv_folds_it(bits):
    model = randomize(QSDTransformer('tiny', weight_bits=bits))
    x = torch.rand(1, 3, 64, 64)
    before = model(x)
    folded = fuse_conv_bn(deepcopy(model))
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in y.modules())
             for y in (model, folded)]
    assert norms[1] < norms[0]
    for a, b in zip(folded(x), before):
        torch.testing.assert_close(a, b, **ROUNDING)
    if bits:
        for a, b in zip(to_integer(folded)(x), before):
            torch.testing.assert_close(a, b, **ROUNDING)


@torch.no_grad()
def test_a_neck_as_mmcv_folds_it():
    model = randomize(SpikeFPN([4, 6], 8, num_outs=2, weight_bits=4,
                               norm_cfg=dict(type='BN')))
    x = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)]
    before = model(x)
    folded = fuse_conv_bn(deepcopy(model))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    for a, b in zip(folded(x), before):
        torch.testing.assert_close(a, b, **ROUNDING)


def module(efficient: bool, bits: int, bias: bool) -> ConvModule:
    torch.manual_seed(0)
    return randomize(ConvModule(
        3, 8, 3, bias=bias, conv_cfg=dict(CONV_CFG, bits=bits),
        norm_cfg=dict(type='BN'), act_cfg=None,
        efficient_conv_bn_eval=efficient), negative=True)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('bits', BITS)
def test_efficient_evaluation_of_mmcv(bits, bias):
    """Outputs, and the gradients of all that is tuned in this mode."""
    plain, efficient = (module(e, bits, bias) for e in (False, True))
    x = torch.randn(2, 3, 6, 6)
    outs = plain(x), efficient(x)
    torch.testing.assert_close(*outs, **ROUNDING)
    target = torch.randn_like(outs[0])
    for out in outs:
        (out * target).sum().backward()
    for a, b in zip(plain.parameters(), efficient.parameters()):
        # Of up to 10, sums of some hundred terms in another order.
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_a_layer_that_was_never_used_saves_the_step_that_it_uses():
    first, second = (module(False, 4, False) for _ in range(2))
    nn.init.normal_(first.conv.weight, std=3.)
    second.load_state_dict(first.state_dict())
    # It still follows weights until it is used.
    nn.init.normal_(first.conv.weight, std=5.)
    again = first.state_dict()
    x = torch.randn(2, 3, 6, 6)
    y = first(x)
    third = module(False, 4, False)
    third.load_state_dict(again)
    assert torch.equal(third(x), y)
    assert not torch.equal(second(x), y)


@pytest.mark.parametrize('weight', [
    lambda layer: layer.weight + 1., lambda layer: layer.weight[:4],
    lambda layer: layer.weight * torch.tensor([1., 0., 1., 0.]).view(
        -1, 1, 1)])
def test_other_weights_cannot_get_past_the_quantizer(weight):
    layer = LSQConv2d(4, 8, 3)
    with pytest.raises(ValueError, match='quantized weights.*to_integer'):
        layer._conv_forward(torch.rand(1, 4, 5, 5), weight(layer), None)


@torch.no_grad()
def test_its_own_weights_are_read_as_quantized():
    layer, x = LSQConv2d(4, 8, 3, bias=False), torch.rand(1, 4, 5, 5)
    expected = layer(x)
    for weight in (layer.weight, layer.quantized_weight()):
        assert torch.equal(layer._conv_forward(x, weight, None), expected)
    float_layer = LSQConv2d(4, 8, 3, bits=None)
    other = torch.rand(8, 4, 3, 3)
    assert torch.equal(float_layer._conv_forward(x, other, None),
                       nn.functional.conv2d(x, other))


@torch.no_grad()
def test_a_weight_that_is_no_multiple_leaves_the_step_as_it_is():
    layer = LSQConv2d(4, 8, 3)
    layer.settle_step_size()
    step = layer.step_size.clone()
    for other in (torch.randn(8, 4, 3, 3), layer.weight * 1,
                  layer.weight.double() * 2):
        layer.weight = nn.Parameter(other.clone())
        assert torch.equal(layer.step_size, step)
        assert torch.equal(layer.weight, other)


@torch.no_grad()
def test_loading_by_assignment_takes_what_is_loaded():
    layer, other = LSQConv2d(4, 8, 3), LSQConv2d(4, 8, 3)
    state = {k: 3 * v for k, v in layer.state_dict().items()}
    other.load_state_dict(state)
    layer.load_state_dict(state, assign=True)
    x = torch.rand(1, 4, 5, 5)
    assert torch.equal(layer(x), other(x))
    assert torch.equal(layer.step_size, state['step_size'])


def test_tied_weights_stay_tied():
    a, b = LSQConv2d(4, 8, 3), LSQConv2d(4, 8, 3)
    b.weight = a.weight
    assert b.weight is a.weight
