"""RoIAlign and RoIPool: fixed-size maps of regions of interest."""

import torch
from torch import Tensor

from .common import wide

__all__ = [
    'roi_align_backward', 'roi_align_forward', 'roi_pool_backward',
    'roi_pool_forward'
]


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor,
                      argmax_y: Tensor, argmax_x: Tensor, aligned_height: int,
                      aligned_width: int, spatial_scale: float,
                      sampling_ratio: int, pool_mode: int,
                      aligned: bool) -> None:
    """Compute RoIAlign: pool_mode 1 averages the samples, 0 takes the max."""
    if pool_mode == 1:
        from torchvision.ops import roi_align
        features, rois = wide(input, rois)
        output.copy_(
            roi_align(features, rois.type_as(features),
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
    """Compute the gradient of :func:`roi_align_forward`."""
    if pool_mode == 1:
        grad, rois = wide(grad_output, rois)
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
    """Compute the gradient of the mean: (R, C, ph, pw) to (B, C, H, W).

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
    # Channels last: a weight then multiplies a run of neighbors.
    columns = grad.permute(0, 2, 3, 1).reshape(-1, channels)
    return (matrix @ columns).view(batch, height, width,
                                   channels).permute(0, 3, 1, 2)


def _roi_samples(start: Tensor, end: Tensor, bins: int, sampling_ratio: int,
                 aligned: bool) -> Tensor:
    """Return the coordinates that RoIAlign reads along a side, (bins, g).

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
    """Return flat indices and weights, (4, ...), of pixels around points."""
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
    """Take the maximum over bins, without rounding corners first."""
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
    """Tell which pixels of a side are in which bin, (bins, size)."""
    edges = torch.arange(bins + 1, device=start.device) * (
        (end - start) / bins) + start
    pixel = torch.arange(size, device=start.device)
    return (pixel >= edges[:-1, None].floor()) & \
        (pixel < edges[1:, None].ceil())


def roi_pool_backward(grad_output: Tensor, rois: Tensor, argmax: Tensor,
                      grad_input: Tensor, pooled_height: int,
                      pooled_width: int, spatial_scale: float) -> None:
    """Pass the gradient to the pixels that were the maximum."""
    for i, roi in enumerate(rois):
        index = argmax[i].flatten(1).long()
        grad = grad_output[i].flatten(1).masked_fill(index < 0, 0)
        grad_input[int(roi[0])].flatten(1).scatter_add_(
            1, index.clamp(min=0), grad)
