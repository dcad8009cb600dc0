"""Detect objects with an exported RetinaNet, without PyTorch.

    pip install numpy onnxruntime pillow
    python onnx_detect.py MODEL.onnx PICTURE [PICTURE ...]

prints boxes (x1, y1, x2, y2), labels and scores. All that the model wants of
a picture, and its anchors, stand in the metadata of the file.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(path: str, facts: dict) -> tuple[np.ndarray, tuple, tuple]:
    """Read a picture as the model was tested on it.

    Returns its size there (width, height), and how much larger it is than
    in the file along both axes, too.
    """
    picture = ImageOps.exif_transpose(Image.open(path)).convert(
        'L' if facts['channels'] == 'gray' else 'RGB')
    first = picture.size
    for step in json.loads(facts.get('steps', '[]')):
        if not step['type'].startswith('Resize') or 'scale' not in step:
            sys.exit(f'a step this script does not know: {step}')
        size = step['scale']
        if step.get('keep_ratio'):
            long, short = max(size), min(size)
            scale = min(long / max(picture.size), short / min(picture.size))
            size = [int(side * scale + .5) for side in picture.size]
        if tuple(size) != picture.size:
            picture = picture.resize(size, Image.Resampling.BILINEAR)
    x = np.asarray(picture, np.float32)
    x = x[..., None] if x.ndim == 2 else x
    if facts['channels'] == 'BGR':
        x = x[..., ::-1]
    height, width = x.shape[:2]
    divisor = int(facts.get('size_divisor', 1))
    # What is padded shall be 0 once it is normalized.
    padded = np.empty((-(-height // divisor) * divisor,
                       -(-width // divisor) * divisor, x.shape[2]),
                      np.float32)
    padded[:] = json.loads(facts.get('pad', '0'))
    padded[:height, :width] = x
    if facts['normalized'] == 'by you':
        padded = (padded - json.loads(facts['mean'])) / json.loads(
            facts['std'])
    images = padded.transpose(2, 0, 1)[None].astype(np.float32)
    ratio = width / first[0], height / first[1]
    return images, (width, height), ratio


def level(scores: np.ndarray, deltas: np.ndarray, stride: list[float],
          base: np.ndarray, facts: dict, rules: dict) -> tuple:
    """Boxes, scores and labels of one level of the pyramid."""
    _, height, width = scores.shape
    x, y = np.meshgrid(np.arange(width) * stride[0],
                       np.arange(height) * stride[1])
    shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    anchors = (base[None] + shifts).reshape(-1, 4)
    scores = scores.transpose(1, 2, 0).reshape(len(anchors), -1)
    deltas = deltas.transpose(1, 2, 0).reshape(len(anchors), 4)
    if facts['activation'] == 'sigmoid':
        scores = 1 / (1 + np.exp(-scores))
    else:
        scores = np.exp(scores - scores.max(1, keepdims=True))
        scores = (scores / scores.sum(1, keepdims=True))[:, :-1]
    place, labels = np.nonzero(scores > rules['score_thr'])
    found = scores[place, labels]
    best = np.argsort(-found, kind='stable')[:rules['nms_pre']]
    place, labels, found = place[best], labels[best], found[best]
    deltas = deltas[place] * rules['stds'] + rules['means']
    anchors = anchors[place]
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    size = anchors[:, 2:] - anchors[:, :2]
    limit = abs(np.log(rules['wh_ratio_clip']))
    center = center + size * deltas[:, :2]
    size = size * np.exp(np.clip(deltas[:, 2:], -limit, limit))
    return np.hstack([center - size / 2, center + size / 2]), found, labels


def suppress(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray,
             limit: float) -> list[int]:
    """Non-maximum suppression within each class; the best come first."""
    kept = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-scores, kind='stable')
    while len(order):
        first, order = order[0], order[1:]
        kept.append(int(first))
        low = np.maximum(boxes[first, :2], boxes[order, :2])
        high = np.minimum(boxes[first, 2:], boxes[order, 2:])
        common = np.clip(high - low, 0, None).prod(1)
        overlap = common / np.maximum(
            areas[first] + areas[order] - common, 1e-9)
        order = order[(overlap <= limit) | (labels[order] != labels[first])]
    return kept


def main() -> None:
    """Of the command line."""
    session = onnxruntime.InferenceSession(
        sys.argv[1], providers=['CPUExecutionProvider'])
    facts = session.get_modelmeta().custom_metadata_map
    if facts.get('task') != 'detect' or 'decode' not in facts:
        sys.exit('expected a dense detector with anchors, got '
                 f'{facts.get("task")}')
    rules = json.loads(facts['decode'])
    classes = json.loads(facts.get('classes', '[]'))
    names = [x.name for x in session.get_outputs()]
    for path in sys.argv[2:]:
        images, size, ratio = read(path, facts)
        outputs = dict(zip(names, session.run(names, {'images': images})))
        parts = [level(outputs[f'cls{i}'][0], outputs[f'bbox{i}'][0], stride,
                       np.array(base), facts, rules)
                 for i, (stride, base) in enumerate(zip(
                     rules['strides'], rules['base_anchors']))]
        boxes, scores, labels = map(np.concatenate, zip(*parts))
        boxes = np.clip(boxes, 0, [*size, *size]) / [*ratio, *ratio]
        if rules['min_bbox_size'] >= 0:  # nothing is left beside the picture
            sides = boxes[:, 2:] - boxes[:, :2]
            large = (sides > rules['min_bbox_size']).all(1)
            boxes, scores, labels = boxes[large], scores[large], labels[large]
        kept = suppress(boxes, scores, labels, rules['iou_threshold'])
        for i in kept[:rules['max_per_img']]:
            name = classes[labels[i]] if classes else int(labels[i])
            print(json.dumps(dict(
                picture=path, label=int(labels[i]), name=name,
                score=round(float(scores[i]), 6),
                box=boxes[i].round(3).tolist())))


if __name__ == '__main__':
    main()
