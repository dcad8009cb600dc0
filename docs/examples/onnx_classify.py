"""Classify pictures with an exported file, without PyTorch.

    pip install numpy onnxruntime pillow
    python onnx_classify.py MODEL.onnx PICTURE [PICTURE ...]

All that the model wants of a picture stands in the metadata of the file.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(path: str, facts: dict) -> np.ndarray:
    """Read a picture as the model was tested on it, (1, C, H, W)."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert(
        'L' if facts['channels'] == 'gray' else 'RGB')
    for step in json.loads(facts.get('steps', '[]')):
        width, height = picture.size
        if step['type'] == 'ResizeEdge':
            scale = step['scale'] / min(width, height)
            picture = picture.resize(
                (round(width * scale), round(height * scale)),
                Image.Resampling.BILINEAR)
        elif step['type'] == 'CenterCrop':
            size = step['crop_size']
            left, top = (width - size) // 2, (height - size) // 2
            picture = picture.crop((left, top, left + size, top + size))
        else:
            sys.exit(f'a step this script does not know: {step}')
    x = np.asarray(picture, np.float32)
    x = x[..., None] if x.ndim == 2 else x
    if facts['channels'] == 'BGR':
        x = x[..., ::-1]
    if facts['normalized'] == 'by you':
        x = (x - json.loads(facts['mean'])) / json.loads(facts['std'])
    return x.transpose(2, 0, 1)[None].astype(np.float32)


def main() -> None:
    """Of the command line."""
    session = onnxruntime.InferenceSession(
        sys.argv[1], providers=['CPUExecutionProvider'])
    facts = session.get_modelmeta().custom_metadata_map
    if facts.get('task') != 'classify':
        sys.exit(f'expected a classifier, got {facts.get("task")}')
    classes = json.loads(facts.get('classes', '[]'))
    for path in sys.argv[2:]:
        logits, = session.run(None, {'images': read(path, facts)})
        if facts['activation'] == 'sigmoid':  # each class by itself
            scores = 1 / (1 + np.exp(-logits[0]))
        else:
            scores = np.exp(logits[0] - logits[0].max())
            scores /= scores.sum()
        best = int(scores.argmax())
        name = classes[best] if classes else best
        print(json.dumps(dict(
            picture=path, label=best, name=name,
            score=round(float(scores[best]), 6))))


if __name__ == '__main__':
    main()
