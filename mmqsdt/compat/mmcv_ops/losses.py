"""Focal losses."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    'sigmoid_focal_loss_backward', 'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward', 'softmax_focal_loss_forward'
]


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor,
                               output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Compute the focal loss (arXiv 1708.02002) of logits (N, C).

    Without reduction. A target that is none of 0..C-1 is background.
    """
    p = input.sigmoid()
    positive = -alpha * (1 - p)**gamma * F.logsigmoid(input)
    negative = -(1 - alpha) * p**gamma * F.logsigmoid(-input)
    output.copy_(_by_class(positive, negative, target, weight))


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor,
                                grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    """Compute the gradient of :func:`sigmoid_focal_loss_forward`."""
    p = input.sigmoid()
    positive = -alpha * (1 - p)**gamma * (
        1 - p - gamma * p * F.logsigmoid(input))
    negative = -(1 - alpha) * p**gamma * (
        gamma * (1 - p) * F.logsigmoid(-input) - p)
    grad_input.copy_(_by_class(positive, negative, target, weight))


def _by_class(positive: Tensor, negative: Tensor, target: Tensor,
              weight: Tensor) -> Tensor:
    classes = torch.arange(positive.shape[1], device=target.device)
    result = torch.where(target[:, None] == classes, positive, negative)
    if weight.numel():
        result = result * _class_weight(weight, target)[:, None]
    return result


def _class_weight(weight: Tensor, target: Tensor) -> Tensor:
    """Look up the weight of each sample; that of the background is 1."""
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1.)


def softmax_focal_loss_forward(softmax: Tensor, target: Tensor,
                               weight: Tensor, output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Compute the focal loss of probabilities (N, C).

    The loss is 0 where the target is negative.
    """
    p = softmax.gather(1, target.clamp(min=0)[:, None])[:, 0]
    tiny = torch.finfo(p.dtype).tiny
    loss = -alpha * (1 - p)**gamma * p.clamp(min=tiny).log()
    if weight.numel():
        loss = loss * _class_weight(weight, target)
    output.copy_(loss * (target >= 0))


def softmax_focal_loss_backward(softmax: Tensor, target: Tensor,
                                weight: Tensor, buff: Tensor,
                                grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    """Compute the gradient of the logits before the softmax."""
    label = target.clamp(min=0)[:, None]
    p = softmax.gather(1, label)[:, 0]
    log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
    factor = alpha * (-(1 - p)**gamma + gamma *
                      (1 - p)**(gamma - 1) * p * log_p)
    if weight.numel():
        factor = factor * _class_weight(weight, target)
    buff.copy_(factor.nan_to_num() * (target >= 0))
    one_hot = torch.zeros_like(softmax).scatter_(1, label, 1.)
    grad_input.copy_(buff[:, None] * (one_hot - softmax))
