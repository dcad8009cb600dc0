"""Small data sets in the four layouts, good but for what a test spoils."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ('cat', 'dog')
SIZE = (64, 48)  # width, height
NUMBER = 4  # images of a part


def picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Write a random image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def make_folder(root: Path) -> Path:
    for part in ('train', 'val'):
        for i in range(NUMBER):
            picture(root / part / NAMES[i % 2] / f'{i}.jpg', i)
    return root


def make_coco(root: Path) -> Path:
    for part in ('train', 'val'):
        images, boxes = [], []
        for i in range(NUMBER):
            picture(root / part / f'{i}.jpg', i)
            images.append(dict(id=i, file_name=f'{i}.jpg', width=SIZE[0],
                               height=SIZE[1]))
            boxes.append(dict(
                id=i, image_id=i, category_id=1 + i % 2, iscrowd=0,
                bbox=[8, 8, 20, 24], area=480,
                segmentation=[[8, 8, 28, 8, 28, 32, 8, 32]]))
        path = root / f'annotations/instances_{part}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(dict(
            images=images, annotations=boxes,
            categories=[dict(id=k, name=n) for k, n in enumerate(NAMES, 1)])))
    return root


def make_pairs(root: Path) -> Path:
    for part in ('train', 'val'):
        for i in range(NUMBER):
            picture(root / f'images/{part}/{i}.jpg', i)
            labels = np.zeros(SIZE[::-1], np.uint8)
            labels[10:30, 10:30] = 1
            labels[:2] = 255
            path = root / f'labels/{part}/{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(path)
    (root / 'classes.txt').write_text('ground\nfigure\n')
    return root


XML = '''<annotation><size><width>64</width><height>48</height>
<depth>3</depth></size><object><name>{name}</name><difficult>0</difficult>
<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>28</xmax><ymax>32</ymax></bndbox>
</object></annotation>'''


def make_voc(root: Path) -> Path:
    for k, part in enumerate(('train', 'val')):
        stems = [f'{NUMBER * k + i:03d}' for i in range(NUMBER)]
        for i, stem in enumerate(stems):
            picture(root / f'JPEGImages/{stem}.jpg', i)
            path = root / f'Annotations/{stem}.xml'
            path.parent.mkdir(exist_ok=True)
            path.write_text(XML.format(name=NAMES[i % 2]))
        path = root / f'ImageSets/Main/{part}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(stems) + '\n')
    return root


MAKERS = dict(folder=make_folder, coco=make_coco, pairs=make_pairs,
              voc=make_voc)
