"""Convolution and attention at learned positions."""

from collections.abc import Callable

import torch
from torch import Tensor

from .common import gradients, wide

__all__ = [
    'deform_conv_backward_input', 'deform_conv_backward_parameters',
    'deform_conv_forward', 'modulated_deform_conv_backward',
    'modulated_deform_conv_forward', 'ms_deform_attn_backward',
    'ms_deform_attn_forward'
]


def _deform_conv(config: dict) -> Callable:
    """Return torchvision's operator with stride, padding and dilation set."""
    from torchvision.ops import deform_conv2d

    def pair(*names: str) -> tuple[int, int]:
        return tuple(config[n] for n in names)

    if 'dH' in config:  # v1's names
        stride, padding, dilation = (pair('dH', 'dW'), pair('padH', 'padW'),
                                     pair('dilationH', 'dilationW'))
    else:
        stride, padding, dilation = (pair('stride_h', 'stride_w'),
                                     pair('pad_h', 'pad_w'),
                                     pair('dilation_h', 'dilation_w'))

    def function(input: Tensor, offset: Tensor, weight: Tensor,
                 mask: Tensor | None = None,
                 bias: Tensor | None = None) -> Tensor:
        return deform_conv2d(input, offset, weight, bias, stride, padding,
                             dilation, mask)

    return function


def deform_conv_forward(input, weight, offset, output, columns, ones,
                        **config) -> None:
    """Compute a deformable convolution (arXiv 1703.06211)."""
    output.copy_(_deform_conv(config)(*wide(input, offset, weight)))


def deform_conv_backward_input(input, offset, grad_output, grad_input,
                               grad_offset, weight, columns,
                               **config) -> None:
    """Compute the gradients of input and offset."""
    conv = _deform_conv(config)
    grads = gradients(lambda x, o: conv(x, o, weight.type_as(x)),
                       [input, offset], grad_output)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[1])


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight,
                                    columns, ones, scale=1,
                                    **config) -> None:
    """Compute the gradient of the weight, times scale."""
    conv = _deform_conv(config)
    weight = torch.zeros_like(grad_weight)  # the output is linear in it
    x, o = wide(input, offset)
    grad_weight.copy_(
        scale * gradients(lambda w: conv(x, o, w), [weight], grad_output)[0])


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask,
                                  output, columns, with_bias,
                                  **config) -> None:
    """Compute a deformable convolution v2 (arXiv 1811.11168)."""
    x, o, w, m, b = wide(input, offset, weight, mask, bias)
    output.copy_(
        _deform_conv(config)(x, o, w, m, b if with_bias else None))


def modulated_deform_conv_backward(input, weight, bias, ones, offset, mask,
                                   columns, grad_input, grad_weight,
                                   grad_bias, grad_offset, grad_mask,
                                   grad_output, with_bias, **config) -> None:
    """Compute the gradients of all that is not an integer."""
    grads = gradients(
        _deform_conv(config), [input, offset, weight, mask], grad_output)
    for target, grad in zip(
            (grad_input, grad_offset, grad_weight, grad_mask), grads):
        target.copy_(grad)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def ms_deform_attn_forward(value: Tensor, shapes: Tensor, starts: Tensor,
                           locations: Tensor, weights: Tensor,
                           im2col_step: int) -> Tensor:
    """Compute multi-scale deformable attention (arXiv 2010.04159)."""
    from mmcv.ops.multi_scale_deform_attn import (
        multi_scale_deformable_attn_pytorch as attention,
    )
    return attention(value, shapes, locations, weights)


def ms_deform_attn_backward(value, shapes, starts, locations, weights,
                            grad_output, grad_value, grad_locations,
                            grad_weights, im2col_step) -> None:
    """Compute the gradients of values, locations and weights."""
    grads = gradients(
        lambda v, p, w: ms_deform_attn_forward(v, shapes, starts, p, w, 0),
        [value, locations, weights], grad_output)
    for target, grad in zip((grad_value, grad_locations, grad_weights), grads):
        target.copy_(grad)
