"""What necks and heads do between their layers, in fewer passes.

The same operations on the same values, so equal to the last bit, but for
RoIAlign, whose sums come in another order.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.necks import SpikeFPN
from .fast_layers import FastNeuron, FusedNeuron

# Rows that are resized at a time: a few MiB at 256 columns of 128 channels.
# Larger tensors are new memory at every call, which takes longer than to
# compute what is in them.
ROWS = 8


def is_double(large: Tensor, small: Tensor) -> bool:
    """Whether one map has twice the height and width of another."""
    return large.shape[2:] == tuple(2 * n for n in small.shape[2:])


def add_nearest(large: Tensor, small: Tensor) -> Tensor:
    """Add a map, enlarged to the nearest pixel, to one in channels_last.

    Args:
        large (Tensor): (B, C, H, W), is changed.
        small (Tensor): (B, C, h, w).
    """
    if not is_double(large, small) or not large.is_contiguous(
            memory_format=torch.channels_last):
        return large.add_(
            F.interpolate(small, size=large.shape[2:], mode='nearest'))
    b, c, h, w = small.shape
    pixels = large.permute(0, 2, 3, 1).view(b, h, 2, w, 2, c)
    pixels.add_(small.permute(0, 2, 3, 1)[:, :, None, :, None])
    return large


def add_bilinear(large: Tensor, small: Tensor) -> Tensor:
    """Add a map of half the size, enlarged by two, a few rows at a time.

    By two, a pixel is made of the same neighbours with the same weights
    wherever the rows are cut, if those next to the cut are there too.

    Args:
        large (Tensor): (B, C, 2h, 2w), is changed.
        small (Tensor): (B, C, h, w).
    """
    height = small.shape[2]
    for start in range(0, height, ROWS):
        stop = min(start + ROWS, height)
        first, last = max(start - 1, 0), min(stop + 1, height)
        rows = F.interpolate(
            small[:, :, first:last], scale_factor=2, mode='bilinear',
            align_corners=False)
        skipped = 2 * (start - first)
        large[:, :, 2 * start:2 * stop] += \
            rows[:, :, skipped:skipped + 2 * (stop - start)]
    return large


class FastFPN(nn.Module):
    """:class:`SpikeFPN`, its sums in place.

    Args:
        neck (SpikeFPN): Whose parts it takes over.

    Shape: as of :class:`SpikeFPN`.
    """

    def __init__(self, neck: SpikeFPN) -> None:
        super().__init__()
        self.__dict__.update(
            {name: getattr(neck, name) for name in
             ('in_channels', 'out_channels', 'num_outs', 'levels',
              'add_extra_convs')})
        self.lateral_convs, self.fpn_convs = neck.lateral_convs, neck.fpn_convs
        self.extra_convs = neck.extra_convs

    sum_maps = staticmethod(add_nearest)
    forward = SpikeFPN.forward


def fpn_head_forward(head: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """mmseg's FPNHead.forward, its sums in place.

    A map that has the size already is not resized to it once more.
    """
    x = head._transform_inputs(inputs)
    total = head.scale_heads[0](x[0])
    for scale_head, y in zip(head.scale_heads[1:], x[1:]):
        *layers, last = scale_head
        for layer in layers:
            y = layer(y)
        if is_doubling(last) and is_double(total, y) and \
                not torch.compiler.is_compiling():
            add_bilinear(total, y)
            continue
        y = last(y)
        if y.shape != total.shape:
            y = F.interpolate(y, size=total.shape[2:], mode='bilinear',
                              align_corners=head.align_corners)
        total.add_(y)
    return head.cls_seg(total)


def is_doubling(layer: nn.Module) -> bool:
    """Whether mmseg's Upsample enlarges a map by two, bilinearly."""
    return type(layer).__name__ == 'Upsample' and layer.mode == 'bilinear' \
        and not layer.align_corners and layer.size is None \
        and layer.scale_factor == 2


def _fpn_head(head: nn.Module) -> nn.Module:
    head.forward = partial(fpn_head_forward, head)
    return head


class FastRoIAlign(nn.Module):
    r"""mmcv's RoIAlign, averaging, over maps in channels_last.

    The mean of :math:`g_y \times g_x` bilinear samples in a bin is a weighted
    sum of the :math:`(g_y + 1) (g_x + 1)` pixels below them, and the weight
    of a pixel is that of its row times that of its column. A pixel is a run
    of channels in memory.

    Args:
        layer (RoIAlign): Of mmcv.

    Shape: maps (B, C, H, W) and regions (R, 5) in, (R, C, h, w) out, in
    channels_last.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name in ('output_size', 'spatial_scale', 'aligned'):
            setattr(self, name, getattr(layer, name))

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """See the class."""
        channels, height, width = x.shape[1:]
        rows, columns = self.output_size
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        corners = rois[:, 1:] * self.spatial_scale - self.aligned / 2
        start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
        if not self.aligned:
            size = size.clamp(min=1)
        step = size / size.new_tensor([columns, rows])  # x, y
        grids = step.ceil().long()  # as many samples as a bin has pixels
        out = x.new_zeros(len(rois), rows * columns, channels)
        for grid in grids.unique(dim=0):
            if grid.min() < 1:  # a region without area has no samples
                continue
            chosen = (grids == grid).all(1).nonzero()[:, 0]
            (x0, wx), (y0, wy) = (
                window_weights(start[chosen, i], step[chosen, i], bins,
                               int(grid[i]), side)
                for i, (bins, side) in enumerate(
                    ((columns, width), (rows, height))))
            at_x, at_y = (
                (first[..., None] + torch.arange(weights.shape[-1])).clamp(
                    max=side - 1)
                for first, weights, side in ((x0, wx, width),
                                             (y0, wy, height)))
            at_y = at_y + (rois[chosen, 0].long() * height)[:, None, None]
            index = at_y[:, :, None, :, None] * width + \
                at_x[:, None, :, None, :]  # (r, rows, columns, gy+1, gx+1)
            weights = wy[:, :, None, :, None] * wx[:, None, :, None, :]
            bins = len(chosen) * rows * columns
            out[chosen] = F.embedding_bag(
                index.reshape(bins, -1), pixels, mode='sum',
                per_sample_weights=weights.reshape(bins, -1)).view(
                    len(chosen), rows * columns, channels)
        return out.view(len(rois), rows, columns, channels).permute(
            0, 3, 1, 2)


def window_weights(start: Tensor, step: Tensor, bins: int, grid: int,
                   side: int) -> tuple[Tensor, Tensor]:
    """Compute the weight of each pixel of an axis in the mean of a bin.

    Args:
        start (Tensor): (R,), where regions begin, in pixels.
        step (Tensor): (R,), length of a bin.
        bins, grid (int): Bins, and samples in each, no more than a pixel
            apart.
        side (int): Pixels of the map.

    Returns:
        tuple[Tensor, Tensor]: First pixel (R, bins), and weights of the
        pixels from there (R, bins, n).
    """
    start, step = start[:, None, None], step[:, None, None]
    at = start + torch.arange(bins)[:, None] * step + \
        (torch.arange(grid) + .5) * step / grid  # (R, bins, grid)
    inside = (at >= -1) & (at <= side)
    at = at.clamp(0, side - 1)
    low = at.long()
    high = (low + 1).clamp(max=side - 1)
    part = at - low
    first = low[..., 0]
    reach = int((high[..., -1] - first).max()) + 1
    weights = at.new_zeros(*first.shape, reach)
    for pixel, weight in ((low, 1 - part), (high, part)):
        weights.scatter_add_(2, pixel - first[..., None],
                             weight * inside / grid)
    return first, weights


def _roi_align(layer: nn.Module) -> nn.Module:
    if layer.pool_mode == 'avg' and layer.sampling_ratio <= 0:
        return FastRoIAlign(layer)
    return layer


def roi_extractor_forward(extractor: nn.Module, feats: Sequence[Tensor],
                          rois: Tensor,
                          roi_scale_factor: float | None = None) -> Tensor:
    """mmdet's SingleRoIExtractor.forward, its output in channels_last."""
    rois = rois.type_as(feats[0])
    if len(feats) == 1 or not len(rois):
        return type(extractor).forward(extractor, feats, rois,
                                       roi_scale_factor)
    levels = extractor.map_roi_levels(rois, len(feats))
    if roi_scale_factor is not None:
        rois = extractor.roi_rescale(rois, roi_scale_factor)
    size = extractor.roi_layers[0].output_size
    out = feats[0].new_empty(len(rois), *size, extractor.out_channels)
    for level, (layer, maps) in enumerate(zip(extractor.roi_layers, feats)):
        chosen = (levels == level).nonzero()[:, 0]
        if len(chosen):
            out[chosen] = layer(maps, rois[chosen]).permute(0, 2, 3, 1)
    return out.permute(0, 3, 1, 2)


def _roi_extractor(extractor: nn.Module) -> nn.Module:
    extractor.forward = partial(roi_extractor_forward, extractor)
    return extractor


def bbox_head_forward(head: nn.Module, neuron: nn.Module,
                      x: Tensor) -> tuple:
    """mmdet's ConvFCBBoxHead.forward, of the counts of what it reads.

    Counts are a quarter of the bytes that are flattened.
    """
    return type(head).forward(head, neuron(x) if len(x) else x)


def _bbox_head(head: nn.Module) -> nn.Module:
    first = head.shared_fcs[0] if head.num_shared_fcs else None
    neuron = getattr(first, 'neuron', None)
    if isinstance(neuron, FastNeuron) and not head.num_shared_convs and \
            not head.with_avg_pool:
        first.neuron = FusedNeuron(neuron)
        head.forward = partial(bbox_head_forward, head, neuron)
    return head


# For classes of frameworks that may be missing: what is changed in them.
NAMED: dict[str, Callable[[nn.Module], nn.Module]] = {
    'mmqsdt.models.heads.spike_fpn_head.SpikeFPNHead': _fpn_head,
    'mmqsdt.models.heads.spike_bbox_heads.SpikeConvFCBBoxHead': _bbox_head,
    'mmcv.ops.roi_align.RoIAlign': _roi_align,
    'mmdet.models.roi_heads.roi_extractors.single_level_roi_extractor.'
    'SingleRoIExtractor': _roi_extractor,
}
