"""1x1 convolutions of small maps as matrix products, for training on CPU."""

import torch
from torch import Tensor, nn

from .integer_tensor import IntegerTensor

# B * H * W up to which, and channels from which on, a matrix product beats
# oneDNN's convolution by more than it costs: measured, see
# docs/performance.md.
MAX_PIXELS, MIN_CHANNELS = 2048, 256


class PointwiseConv(torch.autograd.Function):
    """A 1x1 convolution without bias in the channels_last format.

    There, a map (B, C_in, H, W) is a matrix (B*H*W, C_in). Counts that an
    integer kernel may read are still convolved; the gradients are the same
    products for all.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        if isinstance(x, IntegerTensor) and x.integer_kernel:
            return torch.conv2d(x, weight)
        # Not a view: of those that a Function returns none may be changed.
        out = torch.empty(
            (len(x), len(weight), *x.shape[2:]), dtype=x.dtype,
            memory_format=torch.channels_last)
        torch.mm(as_matrix(x), weight.flatten(1).t(), out=as_matrix(out))
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = as_matrix(grad)  # (B*H*W, C_out)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = as_map(grad @ weight.flatten(1), x.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = (grad.t() @ as_matrix(x)).view(weight.shape)
        return grad_x, grad_weight


def as_matrix(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*H*W, C), a view if channels are last."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def as_map(x: Tensor, shape: torch.Size) -> Tensor:
    """(B*H*W, C) -> (B, C, H, W), channels last."""
    batch, _, height, width = shape
    return x.view(batch, height, width, -1).permute(0, 3, 1, 2)


def wants_matrix_product(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether a conv is a pointwise one that is trained on such a map."""
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and \
        conv.padding in ((0, 0), 'valid', 'same') and conv.groups == 1 and \
        conv.bias is None and x.dim() == 4 and \
        min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS and \
        x.device.type == 'cpu' and x.dtype == torch.float32 and \
        x.shape[1] == conv.in_channels and \
        0 < x.numel() <= MAX_PIXELS * x.shape[1] and \
        x.is_contiguous(memory_format=torch.channels_last) and \
        torch.is_grad_enabled() and not (
            torch.compiler.is_compiling() or torch.jit.is_tracing()
            or torch.is_autocast_enabled('cpu'))
