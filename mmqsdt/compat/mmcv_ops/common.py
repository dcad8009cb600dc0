"""What several operators need."""

from collections.abc import Callable

import torch
from torch import Tensor


def wide(*tensors: Tensor) -> list[Tensor]:
    """Return half precision as float32: not every kernel takes it."""
    return [
        x.float() if x.dtype in (torch.half, torch.bfloat16) else x
        for x in tensors
    ]


def gradients(function: Callable, inputs: list[Tensor],
              grad_output: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of a function with respect to its inputs."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in wide(*inputs)]
        output = function(*leaves)
        return torch.autograd.grad(output, leaves, grad_output.type_as(output))
