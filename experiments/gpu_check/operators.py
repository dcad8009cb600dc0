"""The stand-in for mmcv's compiled operators, on a device and on the CPU."""

import sys
from collections.abc import Callable

import torch
from mmcv import ops
from torch import Tensor

from mmqsdt.compat.mmcv_ops import NAME, StandIn


def boxes(count: int, size: float = 24.) -> Tensor:
    """Draw corners (count, 4) of boxes within size pixels."""
    corner = torch.rand(count, 2) * size / 2
    return torch.cat([corner, corner + torch.rand(count, 2) * size / 2 + 1],
                     1)


def rois(count: int) -> Tensor:
    """(count, 5): number of the image, of two, and corners."""
    index = torch.arange(count).remainder(2).float()
    return torch.cat([index[:, None], boxes(count)], 1)


# Operator -> inputs, and a call that takes them. Floating ones have gradients
# where the call keeps them.
Case = tuple[Callable[[], list[Tensor]], Callable[..., object]]
CASES: dict[str, Case] = {
    'nms': (lambda: [boxes(80), torch.rand(80)],
            lambda b, s: ops.nms(b.detach(), s.detach(), .4)),
    'soft_nms': (lambda: [boxes(40), torch.rand(40)],
                 lambda b, s: ops.soft_nms(b.detach(), s.detach(), .4)),
    'batched_nms': (
        lambda: [boxes(60), torch.rand(60), torch.arange(60) % 3],
        lambda b, s, i: ops.batched_nms(
            b.detach(), s.detach(), i, dict(type='nms', iou_threshold=.5))),
    'nms_match': (
        lambda: [torch.cat([boxes(20), torch.rand(20, 1)], 1)],
        lambda b: ops.nms_match(b.detach(), .4)),
    'bbox_overlaps': (lambda: [boxes(9), boxes(7)],
                      lambda a, b: ops.bbox_overlaps(a.detach(), b.detach())),
    'roi_align': (lambda: [torch.randn(2, 3, 24, 24), rois(11)],
                  lambda x, r: ops.roi_align(x, r.detach(), 7)),
    'roi_align, largest': (
        lambda: [torch.randn(2, 3, 24, 24), rois(5)],
        lambda x, r: ops.roi_align(x, r.detach(), 5, .5, 2, 'max')),
    'roi_pool': (lambda: [torch.randn(2, 3, 24, 24), rois(6)],
                 lambda x, r: ops.roi_pool(x, r.detach(), 5)),
    'sigmoid_focal_loss': (
        lambda: [torch.randn(20, 4), torch.randint(5, (20, ))],
        lambda x, t: ops.sigmoid_focal_loss(x, t, 2., .25, None, 'sum')),
    'softmax_focal_loss': (
        lambda: [torch.randn(20, 4), torch.randint(4, (20, ))],
        lambda x, t: ops.softmax_focal_loss(x, t, 2., .25, None, 'sum')),
    'deform_conv2d': (
        lambda: [torch.randn(2, 4, 9, 9), torch.randn(2, 18, 9, 9),
                 torch.randn(6, 4, 3, 3)],
        lambda x, o, w: ops.deform_conv2d(x, o, w, 1, 1)),
    'modulated_deform_conv2d': (
        lambda: [torch.randn(2, 4, 9, 9), torch.randn(2, 18, 9, 9),
                 torch.rand(2, 9, 9, 9), torch.randn(6, 4, 3, 3),
                 torch.randn(6)],
        lambda x, o, m, w, b: ops.modulated_deform_conv2d(
            x, o, m, w, b, 1, 1, 1, 1, 1)),
    'carafe': (
        lambda: [torch.randn(1, 4, 6, 6), torch.rand(1, 9, 12, 12)],
        lambda x, m: ops.carafe(x, m, 3, 1, 2)),
}


def outputs(found: object) -> list[Tensor]:
    """List the tensors of what a call returned."""
    if isinstance(found, Tensor):
        return [found]
    return [y for each in found for y in outputs(each)]


def run(call: Callable, inputs: list[Tensor], device: str) -> list[Tensor]:
    """Return outputs and gradients of a call, on the CPU."""
    inputs = [x.to(device).requires_grad_(x.is_floating_point())
              for x in inputs]
    found = outputs(call(*inputs))
    loss = sum(y.cos().sum() for y in found if y.requires_grad)
    if isinstance(loss, Tensor):
        loss.backward()
    found += [x.grad for x in inputs
              if x.is_floating_point() and x.grad is not None]
    return [y.detach().cpu() for y in found]


def compare_operators(device: str) -> str:
    """Run every case on a device and on the CPU."""
    if not isinstance(sys.modules.get(NAME), StandIn):
        return 'mmcv has its own, which were not tried'
    for name, (make, call) in CASES.items():
        torch.manual_seed(0)
        inputs = make()
        found, expected = run(call, inputs, device), run(call, inputs, 'cpu')
        if len(found) != len(expected):
            raise AssertionError(f'{name}: {len(found)} tensors, not '
                                 f'{len(expected)}')
        for a, b in zip(found, expected):
            # Float32 sums in another order.
            torch.testing.assert_close(
                a, b, rtol=1e-4, atol=1e-4, check_stride=False,
                msg=lambda text, name=name: f'{name}: {text}')
    return f'{len(CASES)} operators, with gradients'
