"""Networks as users write them: none of their units is one of ours.

Each has an input's shape and, for every layer and product of spikes, what it
reads: the paths of neurons, or what made the values real.
"""

from functools import partial

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmqsdt.deploy import (
    FormReport,
    compare_forms,
    to_fast,
    to_integer,
    to_spikes,
)
from mmqsdt.layers import IELIF, LSQConv2d, LSQLinear, LSQWeight

CONV = dict(type='mmqsdt.LSQConv2d', bits=4)
ACT = dict(type='mmqsdt.IELIF')
NORM = dict(type='BN')


def as_if_trained(model: nn.Module) -> nn.Module:
    """Give norms, steps, thresholds and layer scales values of their own."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=.1)
            nn.init.uniform_(module.running_var, .5, 2.)
            nn.init.uniform_(module.weight, .5, 2.)
            nn.init.normal_(module.bias, std=.3)
        elif isinstance(module, LSQWeight) and module.bits is not None:
            module.settle_step_size()
            with torch.no_grad():
                module.step_size *= torch.empty_like(
                    module.step_size).uniform_(.7, 1.4)
        elif isinstance(module, IELIF) and module.learned:
            nn.init.uniform_(module.log_threshold, -1.2, .5)
    for name, parameter in model.named_parameters():
        if 'layer_scale' in name:
            nn.init.uniform_(parameter, .1, 1.)
    return model.eval()


def conv(*args, **kwargs) -> ConvModule:
    """The recipe of the README."""
    return ConvModule(*args, conv_cfg=CONV, act_cfg=ACT, norm_cfg=NORM,
                      **kwargs)


class Residual(nn.Module):
    """The sum of two paths feeds a neuron, as in spiking ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.neuron1, self.conv1 = IELIF(), LSQConv2d(8, 8, 3, padding=1)
        self.norm1, self.neuron2 = nn.BatchNorm2d(8), IELIF()
        self.conv2, self.norm2 = LSQConv2d(8, 8, 3, padding=1), \
            nn.BatchNorm2d(8)
        self.neuron3, self.conv3 = IELIF(), LSQConv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(self.neuron1(x)))
        y = self.norm2(self.conv2(self.neuron2(y)))
        return self.conv3(self.neuron3(x + y))


class Concatenation(nn.Module):
    """Spikes of two neurons side by side; D differs, the amplitude not."""

    def __init__(self, amplitude: float = .25) -> None:
        super().__init__()
        self.a, self.b = IELIF(), IELIF(7, amplitude=amplitude)
        self.conv = LSQConv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([self.a(x), self.b(-x)], 1))


class Shapes(nn.Module):
    """All that leaves spikes spikes between a neuron and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.neuron, self.drop = IELIF(), nn.Dropout2d()
        self.conv = LSQConv2d(4, 8, 3)
        self.fc = LSQLinear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = self.drop(self.neuron(x)) * 2.
        left, right = x.chunk(2, dim=1)
        x = F.interpolate(F.max_pool2d(left, 2), scale_factor=2)
        x = F.pad(x[:, :, 1:], (1, 1, 2, 1))
        y = self.conv(x)
        tokens = torch.stack([right, right], 1).permute(0, 3, 4, 1, 2)
        tokens = tokens.reshape(b, h * w, 2 * (c // 2)).repeat(1, 1, 2)
        return torch.cat([y.flatten(1), self.fc(tokens).flatten(1)], 1)


class SpikingJellyBlock(nn.Module):
    """SEW block: time in front, folded for convs; spikes are multiplied."""

    def __init__(self, time_steps: int = 2) -> None:
        super().__init__()
        self.time_steps = time_steps
        self.conv1 = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.neuron1 = IELIF(1, 1., 1., time_steps=time_steps)
        self.conv2 = nn.Sequential(
            LSQConv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.neuron2 = IELIF(1, 1., 1., time_steps=time_steps)
        self.pool, self.fc = nn.AdaptiveMaxPool2d(2), LSQLinear(32, 5)
        self.skip = IELIF(1, 1., 1., time_steps=time_steps)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([x] * self.time_steps)  # (T, B, C, H, W)
        t, b = x.shape[:2]
        x = self.skip(x.flatten(0, 1)).unflatten(0, (t, b))
        y = self.neuron1(self.conv1(x.flatten(0, 1)))
        y = self.neuron2(self.conv2(y)).unflatten(0, (t, b))
        y = self.pool((x * (1. - y)).flatten(0, 1))
        return self.fc((y + 0).flatten(1)).unflatten(0, (t, b)).mean(0)


class Attention(nn.Module):
    """A user's own, over tokens: q (k^T v), or (q k^T) v."""

    def __init__(self, keys_first: bool = True, einsum: bool = False) -> None:
        super().__init__()
        self.neuron = IELIF()
        self.qkv = LSQLinear(8, 24)
        self.q, self.k, self.v = IELIF(), IELIF(3), IELIF()
        self.neuron2, self.proj = IELIF(), LSQLinear(8, 8)
        self.keys_first, self.einsum = keys_first, einsum

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.neuron(x)).chunk(3, -1)
        q, k, v = (n(y).unflatten(-1, (2, 4)).transpose(1, 2)
                   for n, y in ((self.q, q), (self.k, k), (self.v, v)))
        if self.einsum:
            y = torch.einsum('bhnd,bhne->bhde', k, v)
            y = torch.einsum('bhnd,bhde->bhne', q, y) * .25
        elif self.keys_first:
            y = q @ (k.transpose(-2, -1) @ v) * .25
        else:
            y = q @ k.transpose(-2, -1) @ v * .25
        return self.proj(self.neuron2(y.transpose(1, 2).flatten(2)))


class Gate(nn.Module):
    """Counts times counts, element by element, read by a conv."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = IELIF(), IELIF(2)
        self.conv = LSQConv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.a(x) * self.b(x.flip(1)))


class Shared(nn.Module):
    """One layer and one norm for two maps; a norm for one of them alone."""

    def __init__(self) -> None:
        super().__init__()
        self.neuron, self.conv = IELIF(), LSQConv2d(8, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.last = nn.ModuleList(
            nn.Sequential(IELIF(), LSQConv2d(8, 4, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        maps = x, F.avg_pool2d(x, 2)
        ys = [last(norm(self.conv(self.neuron(y)))).flatten(2)
              for y, norm, last in zip(maps, self.norms, self.last)]
        return torch.cat(ys, 2)


def ended(operation: nn.Module | None = None) -> nn.Sequential:
    """Something between a neuron and a conv that ends the spikes."""
    return nn.Sequential(IELIF(), operation, LSQConv2d(8, 4, 1))


MAP, TOKENS = (2, 8, 12, 12), (2, 49, 8)
# Name -> a builder, the shape of its input, what each layer reads.
NETWORKS = {
    'recipe': (lambda: nn.Sequential(conv(8, 8, 3, padding=1), conv(8, 4, 1)),
               MAP, {'0.conv': 'input', '1.conv': '0.activate'}),
    'pre-activation': (
        lambda: nn.Sequential(*(conv(8, 8, 3, padding=1, order=(
            'act', 'conv', 'norm')) for _ in range(2))), MAP,
        {'0.conv': '0.activate', '1.conv': '1.activate'}),
    'norm first': (
        lambda: nn.Sequential(*(conv(8, 8, 3, order=(
            'norm', 'act', 'conv')) for _ in range(2))), MAP,
        {'0.conv': '0.activate', '1.conv': '1.activate'}),
    'sequential': (
        lambda: nn.Sequential(
            IELIF(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),
            IELIF(amplitude=.3), nn.ZeroPad2d(1), LSQConv2d(8, 8, 3),
            nn.GroupNorm(2, 8), IELIF(), nn.Flatten(), LSQLinear(128, 5)),
        MAP, {'2': '0', '6': '4', '10': '8'}),
    'residual': (Residual, MAP, {'conv1': 'neuron1', 'conv2': 'neuron2',
                                 'conv3': 'neuron3'}),
    'concatenation': (Concatenation, MAP, {'conv': 'a, b'}),
    'other amplitudes': (lambda: Concatenation(.5), MAP,
                         {'conv': 'cat of spikes'}),
    'shapes': (Shapes, MAP, {'conv': 'neuron', 'fc': 'neuron'}),
    'spikingjelly': (SpikingJellyBlock, MAP, {
        'conv1.0': 'skip', 'conv2.0': 'neuron1', 'fc': 'mul of spikes'}),
    'attention': (Attention, TOKENS, {
        'qkv': 'neuron', 'proj': 'neuron2', 'product': 'k, v, q'}),
    'quadratic attention': (lambda: Attention(False), TOKENS, {
        'qkv': 'neuron', 'proj': 'neuron2', 'product': 'q, k, v'}),
    'einsum': (lambda: Attention(einsum=True), TOKENS, {
        'qkv': 'neuron', 'proj': 'neuron2', 'product': 'k, v, q'}),
    'gate': (Gate, MAP, {'conv': 'a, b', 'mul': 'a, b'}),
    'shared': (Shared, MAP, {'conv': 'neuron', 'last.0.1': 'last.0.0',
                             'last.1.1': 'last.1.0'}),
    'deconv': (lambda: nn.Sequential(
        IELIF(), nn.ConvTranspose2d(8, 6, 3, 2, groups=2), nn.BatchNorm2d(6),
        IELIF(), LSQConv2d(6, 4, 1)), MAP, {'1': '0', '4': '3'}),
    'average pool': (lambda: ended(nn.AvgPool2d(2)), MAP,
                     {'2': 'avg_pool2d of spikes'}),
    'bilinear': (lambda: ended(nn.Upsample(scale_factor=2, mode='bilinear')),
                 MAP, {'2': "interpolate with mode='bilinear' of spikes"}),
    'nearest': (lambda: ended(nn.Upsample(scale_factor=2)), MAP, {'2': '0'}),
    'norm': (lambda: ended(nn.BatchNorm2d(8)), MAP,
             {'2': 'BatchNorm2d of spikes in 1'}),
}
# Those with a layer that reads spikes.
SPIKING = [name for name, (_, _, reads) in NETWORKS.items()
           if name not in ('other amplitudes', 'average pool', 'bilinear',
                           'norm')]

CONVERSIONS = dict(
    integer=to_integer,
    thermometer=to_spikes,
    bitwise=partial(to_spikes, encoding='bitwise'),
    fast=to_fast)


def assert_equal_forms(model, other, inputs):
    """No flip in float64; only within rounding of a threshold in float32."""
    report = compare_forms(model, other, inputs)
    assert report.elements > 1000
    if next(model.parameters()).dtype == torch.float64:
        assert report.flips == 0, str(report)
        assert report.output_error < 1e-12  # float64 sums in another order
        return
    if report.flips:
        # Each where it arises: later neurons would follow.
        report = compare_forms(model, other, inputs, isolate=True)
    for neuron in report.neurons:
        # The scores of two regions can tie within rounding: they swap places,
        # and the heads of regions see the same in another order.
        if not neuron.name.startswith('roi_head.'):
            # Float32 rounding of sums of values near 1.
            assert neuron.flip_distance < 1e-5, str(report)
    if not report.flips:
        assert report.output_error < 1e-5


# Of float32 sums made in another order, of the largest output.
FLOAT32 = 1e-5


def assert_written(report: FormReport) -> None:
    """No flip but where float32 rounds to the other side of a threshold.

    Sums of counts are exact. What reads real values sums in another order,
    so a potential may be some float32 roundings off: 1e-5 of potentials
    around 1. Later neurons and the outputs follow from a flip.
    """
    if report.first_flip:
        assert report.first_flip.flip_distance < FLOAT32
    else:
        assert report.output_error < FLOAT32
    assert report.flips <= 1e-3 * report.elements
