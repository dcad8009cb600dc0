"""Segment pictures with an exported file, without PyTorch.

    pip install numpy onnxruntime pillow
    python onnx_segment.py MODEL.onnx PICTURE [PICTURE ...]

writes PICTURE.labels.png, the class of each pixel. All that the model wants
of a picture stands in the metadata of the file.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(path: str, facts: dict) -> tuple[np.ndarray, tuple[int, int]]:
    """Read a picture as the model was tested on it; its height and width."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert(
        'L' if facts['channels'] == 'gray' else 'RGB')
    width, height = picture.size
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
    if facts['normalized'] == 'by you':
        x = (x - json.loads(facts['mean'])) / json.loads(facts['std'])
    return x.transpose(2, 0, 1)[None].astype(np.float32), (height, width)


def resize(x: np.ndarray, axis: int, size: int, corners: bool) -> np.ndarray:
    """Bilinear, along one axis."""
    old = x.shape[axis]
    place = np.linspace(0, old - 1, size) if corners else np.clip(
        (np.arange(size) + .5) * old / size - .5, 0, old - 1)
    low = place.astype(int)
    high = np.minimum(low + 1, old - 1)
    share = (place - low).reshape([-1 if i == axis else 1
                                   for i in range(x.ndim)])
    return x.take(low, axis) * (1 - share) + x.take(high, axis) * share


def main() -> None:
    """Of the command line."""
    session = onnxruntime.InferenceSession(
        sys.argv[1], providers=['CPUExecutionProvider'])
    facts = session.get_modelmeta().custom_metadata_map
    if facts.get('task') != 'segment':
        sys.exit(f'expected a segmenter, got {facts.get("task")}')
    corners = facts['align_corners'] == 'True'
    for path in sys.argv[2:]:
        images, size = read(path, facts)
        logits, = session.run(None, {'images': images})
        for height, width in (images.shape[2:], size):
            logits = resize(logits, 2, height, corners)
            logits = resize(logits, 3, width, corners)
        if facts['activation'] == 'sigmoid':  # one channel, two classes
            labels = 1 / (1 + np.exp(-logits[0, 0])) > float(
                facts['threshold'])
        else:
            labels = logits[0].argmax(0)
        labels = labels.astype(np.uint8)
        Image.fromarray(labels).save(f'{path}.labels.png')
        values, counts = np.unique(labels, return_counts=True)
        print(json.dumps(dict(
            picture=path, pixels=dict(zip(values.tolist(),
                                          counts.tolist())))))


if __name__ == '__main__':
    main()
