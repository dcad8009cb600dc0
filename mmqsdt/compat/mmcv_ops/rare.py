"""Operators of few stock configs: guided anchoring, CARAFE, PSANet."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .common import gradients

__all__ = [
    'carafe_backward', 'carafe_forward', 'carafe_naive_backward',
    'carafe_naive_forward', 'masked_col2im_forward', 'masked_im2col_forward',
    'psamask_backward', 'psamask_forward'
]


def masked_im2col_forward(features: Tensor, rows: Tensor, cols: Tensor,
                          data_col: Tensor, kernel_h: int, kernel_w: int,
                          pad_h: int, pad_w: int) -> None:
    """Gather the patches around chosen pixels of one image as columns."""
    patches = F.unfold(features, (kernel_h, kernel_w), padding=(pad_h, pad_w))
    width = features.shape[3] + 2 * pad_w - kernel_w + 1
    data_col.copy_(patches[0][:, rows * width + cols])


def masked_col2im_forward(columns: Tensor, rows: Tensor, cols: Tensor,
                          output: Tensor, height: int, width: int,
                          channels: int) -> None:
    """Put columns back to their pixels."""
    output[0, :, rows, cols] = columns


def _reassemble(features: Tensor, masks: Tensor, kernel_size: int,
                group_size: int, scale_factor: int) -> Tensor:
    """Sum a patch for each output pixel, with a kernel of its own."""
    n, c, h, w = features.shape
    height, width = masks.shape[2:]
    patches = F.unfold(features, kernel_size, padding=kernel_size // 2)
    patches = patches.view(n, -1, h, w)
    for dim in (2, 3):
        patches = patches.repeat_interleave(scale_factor, dim)
    patches = patches.view(n, group_size, -1, kernel_size**2, height, width)
    masks = masks.view(n, group_size, 1, kernel_size**2, height, width)
    return (patches * masks).sum(3).view(n, c, height, width)


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor,
                         **config) -> None:
    """Reassemble features by content (CARAFE, arXiv 1905.02188)."""
    output.copy_(_reassemble(features, masks, **config))


def carafe_naive_backward(grad_output, features, masks, grad_input,
                          grad_masks, **config) -> None:
    """Compute the gradients of features and masks."""
    grads = gradients(lambda f, m: _reassemble(f, m, **config),
                       [features, masks], grad_output)
    grad_input.copy_(grads[0])
    grad_masks.copy_(grads[1])


def carafe_forward(features, masks, rfeatures, routput, rmasks, output,
                   **config) -> None:
    """Do :func:`carafe_naive_forward`; rfeatures is for the backward pass."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **config)


def carafe_backward(grad_output, rfeatures, masks, rgrad_output,
                    rgrad_input_hs, rgrad_input, rgrad_masks, grad_input,
                    grad_masks, **config) -> None:
    """Do :func:`carafe_naive_backward`."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input,
                          grad_masks, **config)


def psamask_forward(mask: Tensor, output: Tensor, psa_type: int,
                    **config) -> None:
    """Turn PSANet's masks over offsets to maps over positions.

    The output is (N, H*W, H, W). psa_type 0 collects: entry (p, q) is what
    position q takes from p. 1 distributes: what p gives to q. Offsets outside
    the image are 0.
    """
    output.copy_(_point_attention(mask, psa_type, **config))


def psamask_backward(grad_output: Tensor, grad_input: Tensor, psa_type: int,
                     **config) -> None:
    """Compute the gradient of the masks."""
    grad_input.copy_(
        gradients(lambda m: _point_attention(m, psa_type, **config),
                   [torch.zeros_like(grad_input)], grad_output)[0])


def _point_attention(mask: Tensor, psa_type: int, num_: int, h_feature: int,
                     w_feature: int, h_mask: int, w_mask: int,
                     half_h_mask: int, half_w_mask: int) -> Tensor:
    height, width = (
        torch.arange(n, device=mask.device) for n in (h_feature, w_feature))
    dy = height[:, None] - height + half_h_mask  # (to, from)
    dx = width[:, None] - width + half_w_mask
    valid = ((dy >= 0) & (dy < h_mask))[:, None, :, None] & \
        ((dx >= 0) & (dx < w_mask))[:, None]
    index = dy.clamp(0, h_mask - 1)[:, None, :, None] * w_mask + \
        dx.clamp(0, w_mask - 1)[:, None]
    size = h_feature * w_feature
    index, valid = index.reshape(size, size), valid.reshape(size, size)
    out = mask.flatten(2).gather(1, index.expand(num_, -1, -1)) * valid
    if psa_type == 1:
        out = out.transpose(1, 2)
    return out.reshape(num_, size, h_feature, w_feature)
