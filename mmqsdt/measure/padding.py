"""Products of a convolution with values, not with its padding."""

from functools import lru_cache
from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


@lru_cache
def taps_inside(size: int, kernel: int, stride: int, padding: int,
                dilation: int, positions: int) -> int:
    """Taps of a kernel that lie inside one axis, over all its positions.

    Args:
        size (int): Of the axis.
        kernel, stride, padding, dilation (int): Of the convolution.
        positions (int): Of the kernel.
    """
    return sum(0 <= p * stride - padding + k * dilation < size
               for p in range(positions) for k in range(kernel))


def conv_flops(x_shape, w_shape, bias, stride, padding, dilation, transposed,
               *args, out_shape=None, **kwargs) -> int:
    """Twice the products of a convolution in which no operand is padding.

    A transposed convolution has none with padding; its own cuts off sums at
    the border, whose products are left out.
    """
    from_shape, to_shape = (out_shape, x_shape) if transposed else (
        x_shape, out_shape)
    axes = zip(from_shape[2:], w_shape[2:], stride, padding, dilation,
               to_shape[2:])
    return 2 * x_shape[0] * w_shape[0] * w_shape[1] * prod(
        taps_inside(*axis) for axis in axes)


def exact_flop_counter() -> FlopCounterMode:
    """PyTorch's counter, which by itself counts products with padding."""
    return FlopCounterMode(
        display=False, custom_mapping={aten.convolution: conv_flops})
