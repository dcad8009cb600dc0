"""Predictions on their picture: what lies beneath is seen, labels are apart.

The frameworks' visualizers cover an object with its mask, and write one label
over another. Ours draw the same content: tints and outlines, and labels that
look for a free place.
"""

from collections.abc import Sequence
from types import MethodType

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

TINT = 0.4  # of a mask's color; the rest is the picture
# A class with a smaller share of the pixels gets no label.
LABELLED = 5e-4

Box = tuple[float, float, float, float]


def use_our_drawing(visualizer) -> None:
    """Have a framework's visualizer draw as this module does.

    Args:
        visualizer (Visualizer): Of MMDetection or MMSegmentation; any other
            stays as it is.
    """
    if hasattr(visualizer, '_draw_instances'):
        visualizer._draw_instances = MethodType(_instances, visualizer)
    if hasattr(visualizer, '_draw_sem_seg'):
        visualizer._draw_sem_seg = MethodType(_regions, visualizer)


def _instances(visualizer, image: np.ndarray, instances, classes=None,
               palette=None) -> np.ndarray:
    masks = instances.get('masks')
    if masks is not None and not isinstance(masks, (np.ndarray, torch.Tensor)):
        masks = masks.to_ndarray()  # MMDetection's own kinds
    boxes = instances.get('bboxes')
    boxes = getattr(boxes, 'tensor', boxes)
    labels = instances.labels.tolist()
    names = instances.get('label_names') or [
        classes[i] if classes else str(i) for i in labels]
    scores = instances.get('scores')
    return draw_instances(
        image, names if scores is None else [
            f'{name} {score:.0%}' for name, score in zip(
                names, scores.tolist())],
        colors_of(palette, labels), None if boxes is None else boxes.tolist(),
        None if masks is None else np.asarray(masks).astype(bool))


def _regions(visualizer, image: np.ndarray, sem_seg, classes=None,
             palette=None, with_labels: bool = True) -> np.ndarray:
    labels = np.asarray(sem_seg.data.cpu())[0]
    return draw_regions(image, labels, classes if with_labels else None,
                        palette)


def colors_of(palette: object, labels: Sequence[int]) -> list[tuple]:
    """Choose a color for each label: of a palette, or apart from others."""
    if isinstance(palette, (list, tuple)) and len(palette) > max(
            labels, default=-1) and not isinstance(palette[0], int):
        return [tuple(palette[i]) for i in labels]
    hues = [int(i * 67 % 180) for i in labels]  # neighbors are far apart
    return [tuple(int(c) for c in cv2.cvtColor(
        np.uint8([[[hue, 200, 255]]]), cv2.COLOR_HSV2RGB)[0, 0])
        for hue in hues]


def draw_instances(image: np.ndarray, texts: Sequence[str],
                   colors: Sequence[tuple], boxes: Sequence[Box] | None,
                   masks: np.ndarray | None) -> np.ndarray:
    """Tint and outline masks, draw boxes, write a label at each.

    Args:
        image (np.ndarray): (H, W, 3), RGB, uint8.
        texts (Sequence[str]): Of each instance.
        colors (Sequence[tuple]): Of each, RGB.
        boxes (Sequence[Box], optional): x1, y1, x2, y2 of each.
        masks (np.ndarray, optional): (N, H, W), bool.

    Returns:
        np.ndarray: As the image.
    """
    drawn = np.ascontiguousarray(image[..., :3]).astype(np.uint8).copy()
    if masks is not None:
        for mask, color in zip(masks, colors):
            tint(drawn, mask, color)
    if boxes is None or not np.any(boxes):  # of masks alone
        boxes = [box_of(mask) for mask in masks] if masks is not None else []
    else:
        width = max(1, round(min(image.shape[:2]) / 250))
        for (x1, y1, x2, y2), color in zip(boxes, colors):
            cv2.rectangle(drawn, (round(x1), round(y1)),
                          (round(x2), round(y2)), color, width,
                          cv2.LINE_AA)
    return write_labels(drawn, texts, colors, boxes)


def draw_regions(image: np.ndarray, labels: np.ndarray,
                 classes: Sequence[str] | None, palette: object
                 ) -> np.ndarray:
    """Tint and outline the regions of a label map, write a label at each.

    Args:
        image (np.ndarray): (H, W, 3), RGB, uint8.
        labels (np.ndarray): (H, W); of others than the classes no region.
        classes (Sequence[str], optional): Names; None writes no labels.
        palette (Sequence, optional): Colors of the classes.

    Returns:
        np.ndarray: As the image.
    """
    drawn = np.ascontiguousarray(image[..., :3]).astype(np.uint8).copy()
    number = len(palette or classes or ()) or int(labels.max()) + 1
    # The largest first: outlines of small ones stay on top.
    found = sorted((i for i in np.unique(labels).tolist() if 0 <= i < number),
                   key=lambda i: -int((labels == i).sum()))
    colors = colors_of(palette, range(number))
    boxes, texts = [], []
    for i in found:
        mask = labels == i
        tint(drawn, mask, colors[i])
        if classes is not None and mask.mean() >= LABELLED:
            x, y = middle_of(mask)
            boxes.append((x, y, x, y))
            texts.append((classes[i], colors[i]))
    return write_labels(drawn, [t for t, _ in texts], [c for _, c in texts],
                        boxes)


def tint(image: np.ndarray, mask: np.ndarray, color: tuple) -> None:
    """Color what a mask covers, and its edge, in place."""
    image[mask] = ((1 - TINT) * image[mask]
                   + TINT * np.asarray(color)).astype(np.uint8)
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP,
                                cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, edges, -1, color, 1, cv2.LINE_AA)


def box_of(mask: np.ndarray) -> Box:
    """Return the smallest box around a mask, the corner if it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, 0, 0
    return columns[0], rows[0], columns[-1], rows[-1]


def middle_of(mask: np.ndarray) -> tuple[int, int]:
    """Find the pixel x, y of a mask that is farthest from its edge."""
    distance = cv2.distanceTransform(
        np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), mask.shape)
    return int(x), int(y)


def write_labels(image: np.ndarray, texts: Sequence[str],
                 colors: Sequence[tuple], boxes: Sequence[Box]) -> np.ndarray:
    """Write texts at boxes, each in a place that is free.

    Args:
        image (np.ndarray): (H, W, 3), RGB, uint8.
        texts (Sequence[str]): One for each box.
        colors (Sequence[tuple]): Of their backgrounds.
        boxes (Sequence[Box]): x1, y1, x2, y2.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(10, min(image.shape[:2]) // 28))
    taken: list[Box] = []
    for text, color, box in zip(texts, colors, boxes):
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        size = right - left + 6, bottom - top + 4
        place = free_place(box, size, picture.size, taken)
        taken.append(place)
        draw.rectangle(place, fill=color)
        bright = np.dot(color, (0.299, 0.587, 0.114)) > 140
        draw.text((place[0] + 3 - left, place[1] + 2 - top), text, font=font,
                  fill='black' if bright else 'white')
    return np.asarray(picture)


def free_place(box: Box, size: tuple[float, float],
               picture: tuple[int, int], taken: Sequence[Box]) -> Box:
    """Where a label goes: above its box, beside or below, else farther down.

    Args:
        box (Box): Of what it names.
        size (tuple[float, float]): Width and height of the label.
        picture (tuple[int, int]): Width and height of the picture.
        taken (Sequence[Box]): Of other labels.

    Returns:
        Box: Within the picture; it meets a taken one only if the picture is
        full.
    """
    x1, y1, x2, y2 = box
    width, height = size
    corners = [(x1, y1 - height), (x2 - width, y1 - height), (x1, y2),
               (x2 - width, y2), (x1, y1), (x2, y1), (x1 - width, y1)]
    corners += [(x1, y) for y in np.arange(y1, picture[1], height / 2)]
    corners += [(x, y) for y in np.arange(0, picture[1], height)
                for x in np.arange(0, picture[0], width)]
    places = []
    for x, y in corners:
        x = min(max(0, x), max(0, picture[0] - width - 1))
        y = min(max(0, y), max(0, picture[1] - height - 1))
        places.append((x, y, x + width, y + height))
    return next((p for p in places if not any(meet(p, t) for t in taken)),
                places[0])


def meet(a: Box, b: Box) -> bool:
    """Whether two boxes overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
