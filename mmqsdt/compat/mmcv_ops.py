"""A stand-in for ``mmcv._ext``, mmcv's compiled operators.

A plain ``pip install`` of mmcv has no compiled operators, and MMDetection
cannot even be imported then. Here are those that the frameworks' common
configs reach, over torchvision's operators and plain PyTorch, for CPU and
CUDA, with the signatures of mmcv's extension: results are written into
tensors that the caller allocated. Any other operator raises an error that
names it when it is called.
"""

import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from .finder import NAME, OperatorFinder, find_operators


def install() -> bool:
    """Put the stand-in where mmcv looks, unless the real one is there.

    Returns:
        bool: Whether the stand-in is in use.
    """
    if NAME not in sys.modules:
        spec = find_spec(NAME)
        if spec is not None and not isinstance(spec.loader, OperatorFinder):
            return False
        find_operators()
        import_module(NAME)
    return isinstance(sys.modules[NAME], StandIn)


def make_stand_in() -> ModuleType:
    """The module, announced in one line."""
    if os.environ.get('RANK', '0') == '0':
        logging.getLogger('mmqsdt').warning(
            'mmcv has no compiled operators; mmqsdt puts in its own over '
            'torchvision and PyTorch')
    return StandIn(NAME)


class StandIn(ModuleType):
    """The module; operators that it lacks fail when they are called."""

    def __init__(self, name: str) -> None:
        super().__init__(name, __doc__)
        self.__spec__ = ModuleSpec(name, loader=None, origin=__file__)
        self.__file__ = __file__

    def __getattr__(self, op: str) -> Callable:
        if op.startswith('__'):
            raise AttributeError(op)
        return OPERATORS.get(op) or _missing(op)


def _missing(op: str) -> Callable:

    def fail(*args, **kwargs):
        raise NotImplementedError(
            f'the operator {op!r} of mmcv is not in the stand-in that mmqsdt '
            'uses where mmcv has no compiled operators. Install mmcv with '
            'them: a wheel that has them, or built from source with '
            'MMCV_WITH_OPS=1 (mmcv\'s installation page tells how)')

    return fail


def _wide(*tensors: Tensor) -> list[Tensor]:
    """float32 for what the kernels do not take on every device."""
    return [
        x.float() if x.dtype in (torch.half, torch.bfloat16) else x
        for x in tensors
    ]


def _gradients(function: Callable, inputs: list[Tensor],
               grad_output: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a differentiable function with respect to inputs."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in _wide(*inputs)]
        output = function(*leaves)
        return torch.autograd.grad(output, leaves, grad_output.type_as(output))


# Boxes


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float,
        offset: int) -> Tensor:
    """Indices of the boxes kept, best first; sides are x2 - x1 + offset."""
    from torchvision.ops import nms as torchvision_nms
    boxes, scores = _wide(boxes, scores)
    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    return torchvision_nms(boxes, scores.type_as(boxes), iou_threshold)


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float,
            sigma: float, min_score: float, method: int,
            offset: int) -> Tensor:
    """Soft-NMS (arXiv 1704.04503): lower the scores of what overlaps.

    method 0 is plain NMS, 1 linear, 2 gaussian. Rows of ``dets`` become
    (x1, y1, x2, y2, score), best first.
    """
    index = torch.arange(len(boxes), device=boxes.device)
    scores = scores.clone()
    order = []
    while len(index):
        best = int(scores[index].argmax())
        i = index[best]
        dets[len(order)] = torch.cat([boxes[i], scores[i:i + 1]])
        order.append(i)
        index = torch.cat([index[:best], index[best + 1:]])
        ious = pairwise_iou(boxes[i:i + 1], boxes[index], offset)[0]
        if method == 0:
            scores[index] *= (ious < iou_threshold).type_as(scores)
        elif method == 1:
            scores[index] *= torch.where(ious < iou_threshold, 1., 1 - ious)
        else:
            scores[index] *= torch.exp(-ious**2 / sigma)
        index = index[scores[index] >= min_score]
    return torch.stack(order) if order else index


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of indices: a kept box, then those that it suppresses."""
    index = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(index):
        best, index = index[:1], index[1:]
        ious = pairwise_iou(dets[best, :4], dets[index, :4], 0)[0]
        suppressed = ious >= iou_threshold
        groups.append([int(best), *index[suppressed].tolist()])
        index = index[~suppressed]
    return groups


def pairwise_iou(boxes1: Tensor, boxes2: Tensor, offset: int) -> Tensor:
    """(N, 4) and (M, 4) -> (N, M)."""
    ious = boxes1.new_zeros(len(boxes1), len(boxes2))
    bbox_overlaps(boxes1, boxes2, ious, mode=0, aligned=False, offset=offset)
    return ious


def bbox_overlaps(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode: int,
                  aligned: bool, offset: int) -> None:
    """IoU (mode 0) or intersection over the first box (mode 1)."""
    if not aligned:
        boxes1 = boxes1[:, None]
    top_left = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    inter = (bottom_right - top_left + offset).clamp(min=0).prod(-1)
    area1, area2 = ((b[..., 2:] - b[..., :2] + offset).prod(-1)
                    for b in (boxes1, boxes2))
    ious.copy_(inter / (area1 + area2 - inter if mode == 0 else area1))


# Regions of interest


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor,
                      argmax_y: Tensor, argmax_x: Tensor, aligned_height: int,
                      aligned_width: int, spatial_scale: float,
                      sampling_ratio: int, pool_mode: int,
                      aligned: bool) -> None:
    """RoIAlign; pool_mode 1 averages the samples of a bin, 0 takes the max."""
    if pool_mode == 1:
        from torchvision.ops import roi_align
        wide, rois = _wide(input, rois)
        output.copy_(
            roi_align(wide, rois.type_as(wide),
                      (aligned_height, aligned_width), spatial_scale,
                      sampling_ratio, aligned))
        return
    for i, roi in enumerate(rois):
        y, x = (
            _roi_samples(*(roi[k::2][-2:] * spatial_scale), bins,
                         sampling_ratio, aligned)
            for k, bins in ((0, aligned_height), (1, aligned_width)))
        shape = (len(y), y.shape[1], len(x), x.shape[1])  # (ph, gy, pw, gx)
        y = y[:, :, None, None].expand(shape).transpose(1, 2).flatten(2)
        x = x[None, None].expand(shape).transpose(1, 2).flatten(2)
        index, weight = _bilinear(y, x, *input.shape[2:])  # (4, ph, pw, g)
        values = input[int(roi[0])].flatten(1)[:, index] * weight
        output[i], best = values.sum(1).max(-1)  # (C, ph, pw)
        for out, at in ((argmax_y[i], y), (argmax_x[i], x)):
            at = at.expand(len(best), *at.shape)
            out.copy_(at.gather(-1, best[..., None])[..., 0])


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor,
                       argmax_x: Tensor, grad_input: Tensor,
                       aligned_height: int, aligned_width: int,
                       spatial_scale: float, sampling_ratio: int,
                       pool_mode: int, aligned: bool) -> None:
    """Gradient of :func:`roi_align_forward` with respect to the input."""
    if pool_mode == 1:
        grad, rois = _wide(grad_output, rois)
        arguments = grad, rois.type_as(grad), spatial_scale
        grad_input.copy_(
            _mean_gradient(*arguments, grad_input.shape, sampling_ratio,
                           aligned) if grad.device.type == 'cpu' else
            torch.ops.torchvision._roi_align_backward(
                *arguments, aligned_height, aligned_width, *grad_input.shape,
                sampling_ratio, aligned))
        return
    index, weight = _bilinear(argmax_y, argmax_x, *grad_input.shape[2:])
    for i, roi in enumerate(rois):
        target = grad_input[int(roi[0])].flatten(1)  # a view, (C, H*W)
        for k in range(4):
            target.scatter_add_(1, index[k, i].flatten(1),
                                (weight[k, i] * grad_output[i]).flatten(1))


def _mean_gradient(grad: Tensor, rois: Tensor, spatial_scale: float,
                   shape: tuple[int, int, int, int], sampling_ratio: int,
                   aligned: bool) -> Tensor:
    """Gradient of the mean of samples, (R, C, ph, pw) to (B, C, H, W).

    RoIAlign multiplies the pixels by a sparse matrix, so its gradient is the
    product with the transposed one. torchvision's loops take 6 times as long
    on a CPU, a quarter of a training step of the digits Mask R-CNN.
    """
    batch, channels, height, width = shape
    ph, pw = grad.shape[2:]
    corners = (rois[:, 1:] * spatial_scale)[..., None, None]  # (R, 4, 1, 1)
    grids = torch.full((len(rois), 2), sampling_ratio)
    if sampling_ratio <= 0:  # as many samples as a bin has pixels
        sizes = (corners[:, 2:] - corners[:, :2])[..., 0, 0]
        if not aligned:
            sizes = sizes.clamp(min=1)
        bins = torch.tensor([pw, ph], dtype=sizes.dtype)
        grids = (sizes / bins).ceil().long()
    pixels, outputs, weights = [], [], []
    for grid in grids.unique(dim=0):
        if grid.min() < 1:  # a RoI without area has no samples
            continue
        chosen = (grids == grid).all(1).nonzero()[:, 0]
        x, y = (_roi_samples(corners[chosen, k], corners[chosen, k + 2], bins,
                             int(grid[k]), aligned)
                for k, bins in ((0, pw), (1, ph)))  # (r, pw, gx), (r, ph, gy)
        y, x = torch.broadcast_tensors(y[:, :, None, :, None],
                                       x[:, None, :, None, :])
        index, weight = _bilinear(y, x, height, width)  # (4, r, ph, pw, g, g)
        image = rois[chosen, 0].long().view(-1, 1, 1, 1, 1)
        output = torch.arange(len(rois) * ph * pw).view(-1, ph, pw, 1, 1)
        pixels.append((index + image * height * width).flatten())
        outputs.append(output[chosen].expand_as(index).flatten())
        weights.append((weight / (grid[0] * grid[1])).flatten())
    if not pixels:
        return grad.new_zeros(shape)
    matrix = torch.sparse_coo_tensor(
        torch.stack([torch.cat(pixels), torch.cat(outputs)]),
        torch.cat(weights), (batch * height * width, len(rois) * ph * pw),
        check_invariants=False)
    # Channels last: a weight then multiplies a run of neighbours.
    columns = grad.permute(0, 2, 3, 1).reshape(-1, channels)
    return (matrix @ columns).view(batch, height, width,
                                   channels).permute(0, 3, 1, 2)


def _roi_samples(start: Tensor, end: Tensor, bins: int, sampling_ratio: int,
                 aligned: bool) -> Tensor:
    """Coordinates along one side of a RoI that RoIAlign reads, (bins, g).

    Of several, start and end (R, 1, 1): (R, bins, g), sampling_ratio given.
    """
    if aligned:
        start, end = start - .5, end - .5
        size = end - start
    else:
        size = (end - start).clamp(min=1)
    grid = sampling_ratio
    if grid <= 0:
        grid = max(int((size / bins).ceil()), 1)
    steps = torch.arange(grid, device=size.device, dtype=size.dtype)
    offsets = torch.arange(bins, device=size.device, dtype=size.dtype)
    return start + (offsets[:, None] + (steps + .5) / grid) \
        * size / bins


def _bilinear(y: Tensor, x: Tensor, height: int,
              width: int) -> tuple[Tensor, Tensor]:
    """Flat indices and weights, (4, ...), of the pixels around points."""
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    y0, x0 = y.long(), x.long()
    y1, x1 = (y0 + 1).clamp(max=height - 1), (x0 + 1).clamp(max=width - 1)
    dy, dx = y - y0, x - x0
    index = [y0 * width + x0, y0 * width + x1, y1 * width + x0,
             y1 * width + x1]
    weight = [(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx]
    return torch.stack(index), torch.stack(weight) * inside


def roi_pool_forward(input: Tensor, rois: Tensor, output: Tensor,
                     argmax: Tensor, pooled_height: int, pooled_width: int,
                     spatial_scale: float) -> None:
    """Max over bins. Unlike torchvision's, corners are not rounded first."""
    height, width = input.shape[2:]
    argmax.fill_(-1)
    for i, roi in enumerate(rois):
        x1, y1 = roi[1:3] * spatial_scale
        x2, y2 = (roi[3:] + 1) * spatial_scale
        if x2 <= x1 or y2 <= y1:
            continue
        rows = _bin_members(y1, y2, pooled_height, height)
        cols = _bin_members(x1, x2, pooled_width, width)
        values = input[int(roi[0])][:, :, None]  # (C, H, 1, W)
        values, col = values.masked_fill(~cols, -torch.inf).max(-1)
        values = values.transpose(1, 2)[:, None]  # (C, 1, pw, H)
        values, row = values.masked_fill(~rows[:, None],
                                         -torch.inf).max(-1)  # (C, ph, pw)
        best = row * width + col.gather(1, row)
        empty = values == -torch.inf
        output[i] = values.masked_fill(empty, 0)
        argmax[i] = best.masked_fill(empty, -1)


def _bin_members(start: Tensor, end: Tensor, bins: int, size: int) -> Tensor:
    """Which pixels of a side are in which bin, (bins, size)."""
    edges = torch.arange(bins + 1, device=start.device) * (
        (end - start) / bins) + start
    pixel = torch.arange(size, device=start.device)
    return (pixel >= edges[:-1, None].floor()) & \
        (pixel < edges[1:, None].ceil())


def roi_pool_backward(grad_output: Tensor, rois: Tensor, argmax: Tensor,
                      grad_input: Tensor, pooled_height: int,
                      pooled_width: int, spatial_scale: float) -> None:
    """Gradient goes to the pixels that were the maximum."""
    for i, roi in enumerate(rois):
        index = argmax[i].flatten(1).long()
        grad = grad_output[i].flatten(1).masked_fill(index < 0, 0)
        grad_input[int(roi[0])].flatten(1).scatter_add_(
            1, index.clamp(min=0), grad)


# Focal losses


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor,
                               output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Focal loss (arXiv 1708.02002) of N logits of C classes, no reduction.

    A target that is none of 0..C-1 is background.
    """
    p = input.sigmoid()
    positive = -alpha * (1 - p)**gamma * F.logsigmoid(input)
    negative = -(1 - alpha) * p**gamma * F.logsigmoid(-input)
    output.copy_(_by_class(positive, negative, target, weight))


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor,
                                grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    """Gradient of :func:`sigmoid_focal_loss_forward`, of each entry."""
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
    """Weight of each sample; background has no entry and counts in full."""
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1.)


def softmax_focal_loss_forward(softmax: Tensor, target: Tensor,
                               weight: Tensor, output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Focal loss of probabilities (N, C); a negative target costs nothing."""
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
    """Gradient with respect to the logits behind the softmax."""
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


# Convolutions with sampled positions


def _deform_conv(config: dict) -> Callable:
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
    """Deformable convolution (arXiv 1703.06211)."""
    output.copy_(_deform_conv(config)(*_wide(input, offset, weight)))


def deform_conv_backward_input(input, offset, grad_output, grad_input,
                               grad_offset, weight, columns,
                               **config) -> None:
    """Gradients with respect to input and offset."""
    conv = _deform_conv(config)
    grads = _gradients(lambda x, o: conv(x, o, weight.type_as(x)),
                       [input, offset], grad_output)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[1])


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight,
                                    columns, ones, scale=1,
                                    **config) -> None:
    """Gradient with respect to the weight, times scale."""
    conv = _deform_conv(config)
    weight = torch.zeros_like(grad_weight)  # the output is linear in it
    x, o = _wide(input, offset)
    grad_weight.copy_(
        scale * _gradients(lambda w: conv(x, o, w), [weight], grad_output)[0])


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask,
                                  output, columns, with_bias,
                                  **config) -> None:
    """Deformable convolution v2 (arXiv 1811.11168)."""
    x, o, w, m, b = _wide(input, offset, weight, mask, bias)
    output.copy_(
        _deform_conv(config)(x, o, w, m, b if with_bias else None))


def modulated_deform_conv_backward(input, weight, bias, ones, offset, mask,
                                   columns, grad_input, grad_weight,
                                   grad_bias, grad_offset, grad_mask,
                                   grad_output, with_bias, **config) -> None:
    """Gradients with respect to all that is not an integer."""
    grads = _gradients(
        _deform_conv(config), [input, offset, weight, mask], grad_output)
    for target, grad in zip(
            (grad_input, grad_offset, grad_weight, grad_mask), grads):
        target.copy_(grad)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def masked_im2col_forward(features: Tensor, rows: Tensor, cols: Tensor,
                          data_col: Tensor, kernel_h: int, kernel_w: int,
                          pad_h: int, pad_w: int) -> None:
    """Patches around chosen pixels of one image, as columns."""
    patches = F.unfold(features, (kernel_h, kernel_w), padding=(pad_h, pad_w))
    width = features.shape[3] + 2 * pad_w - kernel_w + 1
    data_col.copy_(patches[0][:, rows * width + cols])


def masked_col2im_forward(columns: Tensor, rows: Tensor, cols: Tensor,
                          output: Tensor, height: int, width: int,
                          channels: int) -> None:
    """Columns back to their pixels."""
    output[0, :, rows, cols] = columns


# Sampling by content


def ms_deform_attn_forward(value: Tensor, shapes: Tensor, starts: Tensor,
                           locations: Tensor, weights: Tensor,
                           im2col_step: int) -> Tensor:
    """Multi-scale deformable attention (arXiv 2010.04159)."""
    from mmcv.ops.multi_scale_deform_attn import (
        multi_scale_deformable_attn_pytorch as attention,
    )
    return attention(value, shapes, locations, weights)


def ms_deform_attn_backward(value, shapes, starts, locations, weights,
                            grad_output, grad_value, grad_locations,
                            grad_weights, im2col_step) -> None:
    """Gradients with respect to values, locations and weights."""
    grads = _gradients(
        lambda v, p, w: ms_deform_attn_forward(v, shapes, starts, p, w, 0),
        [value, locations, weights], grad_output)
    for target, grad in zip((grad_value, grad_locations, grad_weights), grads):
        target.copy_(grad)


def _reassemble(features: Tensor, masks: Tensor, kernel_size: int,
                group_size: int, scale_factor: int) -> Tensor:
    """CARAFE: each output pixel sums a patch with its own kernel."""
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
    """Content-aware reassembly of features (arXiv 1905.02188)."""
    output.copy_(_reassemble(features, masks, **config))


def carafe_naive_backward(grad_output, features, masks, grad_input,
                          grad_masks, **config) -> None:
    """Gradients with respect to features and masks."""
    grads = _gradients(lambda f, m: _reassemble(f, m, **config),
                       [features, masks], grad_output)
    grad_input.copy_(grads[0])
    grad_masks.copy_(grads[1])


def carafe_forward(features, masks, rfeatures, routput, rmasks, output,
                   **config) -> None:
    """As :func:`carafe_naive_forward`; rfeatures is for the backward pass."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **config)


def carafe_backward(grad_output, rfeatures, masks, rgrad_output,
                    rgrad_input_hs, rgrad_input, rgrad_masks, grad_input,
                    grad_masks, **config) -> None:
    """As :func:`carafe_naive_backward`."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input,
                          grad_masks, **config)


def psamask_forward(mask: Tensor, output: Tensor, psa_type: int,
                    **config) -> None:
    """PSANet's masks over offsets as maps over positions, (N, H*W, H, W).

    psa_type 0 collects: entry (p, q) is what position q takes from p;
    1 distributes: what p gives to q. Offsets outside the image are 0.
    """
    output.copy_(_point_attention(mask, psa_type, **config))


def psamask_backward(grad_output: Tensor, grad_input: Tensor, psa_type: int,
                     **config) -> None:
    """Gradient with respect to the masks."""
    grad_input.copy_(
        _gradients(lambda m: _point_attention(m, psa_type, **config),
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


def get_compiler_version() -> str:
    """Shown by collect_env."""
    return 'none: operators over torchvision, by mmqsdt'


def get_compiling_cuda_version() -> str:
    """Shown by collect_env."""
    return 'not available'


OPERATORS = {
    name: value
    for name, value in globals().items()
    if callable(value) and not name.startswith('_') and getattr(
        value, '__module__', None) == __name__
    and name not in ('install', 'StandIn', 'pairwise_iou')
}
