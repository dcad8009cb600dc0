"""Non-maximum suppression and overlaps of boxes (x1, y1, x2, y2)."""

import torch
from torch import Tensor

from .common import wide

__all__ = [
    'bbox_overlaps', 'nms', 'nms_match', 'softnms'
]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float,
        offset: int) -> Tensor:
    """Return indices of the boxes kept, best first; sides add offset."""
    from torchvision.ops import nms as torchvision_nms
    boxes, scores = wide(boxes, scores)
    if boxes.numel() == 0:
        return boxes.new_empty(0, dtype=torch.long)
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    return torchvision_nms(boxes, scores.type_as(boxes), iou_threshold)


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float,
            sigma: float, min_score: float, method: int,
            offset: int) -> Tensor:
    """Lower the scores of boxes that overlap (Soft-NMS, arXiv 1704.04503).

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
    """Group indices: a kept box, then those that it suppresses."""
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
    """Compute the IoU of all pairs: (N, 4) and (M, 4) -> (N, M)."""
    ious = boxes1.new_zeros(len(boxes1), len(boxes2))
    bbox_overlaps(boxes1, boxes2, ious, mode=0, aligned=False, offset=offset)
    return ious


def bbox_overlaps(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode: int,
                  aligned: bool, offset: int) -> None:
    """Compute IoU (mode 0) or intersection over the first box (mode 1)."""
    if not aligned:
        boxes1 = boxes1[:, None]
    top_left = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    inter = (bottom_right - top_left + offset).clamp(min=0).prod(-1)
    area1, area2 = ((b[..., 2:] - b[..., :2] + offset).prod(-1)
                    for b in (boxes1, boxes2))
    ious.copy_(inter / (area1 + area2 - inter if mode == 0 else area1))
