"""The integer kernels of a CPU, PyTorch's oneDNN: probe and wrappers."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

# Pixels of a map below which oneDNN orders weights by the size of the map.
SMALL_MAP = 100
# Sizes of maps for which one conv keeps packed weights.
PACKED_SIZES = 8


@cache
def find_kernel_obstacle() -> str | None:
    """Why this PyTorch on this processor has no such kernels, or None."""
    counts = torch.arange(36).view(1, 4, 3, 3) % 5
    codes = torch.arange(36).view(1, 4, 3, 3) % 16 - 8
    try:
        kernel = IntegerConv(
            codes.to(torch.int8), torch.ones(1), torch.zeros(1))
        out = kernel(counts.to(torch.uint8))
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        return f'{error}'.splitlines()[0]
    if out.item() != (counts * codes).sum().item():
        return 'oneDNN computes wrong integer sums on this processor'
    return None


class IntegerConv:
    """Conv of uint8 counts with int8 codes, then scale and bias.

    Args:
        codes (Tensor): (out, in / groups, k, k), int8.
        scale, bias (Tensor): (out, ), float32.
        stride, padding, dilation (tuple[int, int]): As of F.conv2d.
        groups (int): As of F.conv2d.
        levels (int, optional): If given, put out the counts
            round(clamp(y, 0, levels)), uint8, half to even; else y, float32.

    Shape: (B, in, H, W) in, (B, out, H', W') out, channels_last.
    """

    def __init__(self,
                 codes: Tensor,
                 scale: Tensor,
                 bias: Tensor,
                 stride: tuple[int, int] = (1, 1),
                 padding: tuple[int, int] = (0, 0),
                 dilation: tuple[int, int] = (1, 1),
                 groups: int = 1,
                 levels: int | None = None) -> None:
        self.codes, self.scale, self.bias = codes, scale, bias
        self.geometry = stride, padding, dilation, groups
        self.zero_points = torch.zeros(len(scale), dtype=torch.int64)
        self.post = (torch.float32, 'none', []) if levels is None else (
            torch.uint8, 'hardtanh', [0., float(levels)])
        self.packed: dict[tuple[int, int], Tensor] = {}

    def pack(self, height: int, width: int) -> Tensor:
        """Pack the codes in the order that kernels for maps of this size read.

        Maps that are not small share one, but at widths such as 720, the
        scores of a RetinaNet. Where the order is not the kernel's, it is
        changed at every call: 9 ms for 256 x 768 codes, 200 for 720 x 2304.
        """
        width_out = len(self.codes)
        is_odd = width_out > 256 and width_out % 64 and width_out % 16 == 0
        if height * width >= SMALL_MAP and not is_odd:
            height = width = 16
        if (height, width) not in self.packed:
            while len(self.packed) >= PACKED_SIZES:
                del self.packed[next(iter(self.packed))]  # the oldest
            channels = self.codes.shape[1] * self.geometry[3]
            self.packed[height, width] = torch.ops.onednn.qconv_prepack(
                self.codes, self.scale, 1., 0, *self.geometry,
                [1, channels, height, width])
        return self.packed[height, width]

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        arguments = (self.pack(*x.shape[2:]), self.scale, self.zero_points,
                     self.bias, *self.geometry)
        if torch.compiler.is_exporting():
            levels = int(self.post[2][1]) if self.post[2] else 0
            return torch.ops.mmqsdt.integer_conv(
                x, *arguments, list(self.codes.shape), levels)
        return torch.ops.onednn.qconv2d_pointwise(
            x, 1., 0, *arguments, 1., 0, *self.post, '')


# The same kernel as an operator of our own, for graphs that are kept in a
# file: what a file can hold are no lists of floats, such as the bounds of D.
LIBRARY = torch.library.Library('mmqsdt', 'FRAGMENT')
LIBRARY.define(
    'integer_conv(Tensor x, Tensor packed, Tensor scale, Tensor zero_points, '
    'Tensor bias, int[] stride, int[] padding, int[] dilation, int groups, '
    'int[] shape, int levels) -> Tensor')


@torch.library.impl(LIBRARY, 'integer_conv', 'CompositeExplicitAutograd')
def _run_conv(x: Tensor, packed: Tensor, scale: Tensor, zero_points: Tensor,
              bias: Tensor, stride: list[int], padding: list[int],
              dilation: list[int], groups: int, shape: list[int],
              levels: int) -> Tensor:
    post = (torch.uint8, 'hardtanh', [0., float(levels)]) if levels else (
        torch.float32, 'none', [])
    return torch.ops.onednn.qconv2d_pointwise(
        x, 1., 0, packed, scale, zero_points, bias, stride, padding, dilation,
        groups, 1., 0, *post, '')


@torch.library.register_fake('mmqsdt::integer_conv', lib=LIBRARY)
def _shape_conv(x: Tensor, packed: Tensor, scale: Tensor, zero_points: Tensor,
                bias: Tensor, stride: list[int], padding: list[int],
                dilation: list[int], groups: int, shape: list[int],
                levels: int) -> Tensor:
    size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(
        x.shape[2:], padding, dilation, shape[2:], stride)]
    return x.new_empty(
        (len(x), shape[0], *size),
        dtype=torch.uint8 if levels else torch.float32).contiguous(
            memory_format=torch.channels_last)


class FloatConv:
    """Conv of real values in channels_last; see :class:`IntegerConv`.

    Its weights are not packed: oneDNN changes the order of packed ones at
    every call for some widths and sizes, 16 ms for 0.8. A plain 1x1 conv is
    a matrix product: on one thread PyTorch does not give it to oneDNN, and
    what it does instead takes twice as long.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: tuple[int, int],
                 padding: tuple[int, int], dilation: tuple[int, int],
                 groups: int) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.arguments = bias, stride, padding, dilation, groups
        self.is_product = weight.shape[2:] == (1, 1) and groups == 1 and (
            tuple(stride), tuple(padding)) == ((1, 1), (0, 0))

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        if self.is_product:
            return F.linear(
                x.permute(0, 2, 3, 1), self.weight.flatten(1),
                self.arguments[0]).permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, *self.arguments)


class IntegerLinear:
    """Product of uint8 counts with int8 codes, then scale and bias."""

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor) -> None:
        weight = torch.ops.onednn.qlinear_prepack(codes, None)
        zero_points = torch.zeros(len(scale), dtype=torch.int64)
        self.arguments = (1., 0, weight, scale, zero_points, bias, 1., 0,
                          torch.float32, 'none', [], '')

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.onednn.qlinear_pointwise(x, *self.arguments)
