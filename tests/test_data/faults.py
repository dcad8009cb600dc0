"""Faults to put into a small data set, and what becomes of them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from small_data import NAMES, NUMBER, picture

BASES = dict(
    folder='cls/qsdt_digits', coco='det/qsdt_maskrcnn_digits',
    pairs='seg/qsdt_fpn_digits', voc='det/qsdt_retinanet_digits')
FIRST = dict(folder='train/cat/0.jpg', coco='train/0.jpg',
             pairs='images/train/0.jpg', voc='JPEGImages/000.jpg')
# Short trainings without worker processes, for --cfg-options.
SHORT = [
    f'{part}_dataloader.{key}' for part in ('train', 'val', 'test')
    for key in ('num_workers=0', 'batch_size=2')
]
LENGTH = dict(folder='max_epochs=1', coco='max_epochs=1',
              pairs='max_iters=4', voc='max_epochs=1')


def change_labels(path: Path, change: Callable) -> None:
    with Image.open(path) as image:
        pixels = np.array(image)
    Image.fromarray(change(pixels)).save(path)


def convert(path: Path, mode: str) -> None:
    with Image.open(path) as image:
        image.convert(mode).save(path)


def edit_xml(root: Path, old: str, new: str) -> None:
    path = root / 'Annotations/000.xml'
    path.write_text(path.read_text().replace(old, new))


def edit_coco(root: Path, change: Callable[[dict], object],
              parts: tuple[str, ...] = ('train', )) -> None:
    for part in parts:
        path = root / f'annotations/instances_{part}.json'
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def write_list(root: Path, first: int) -> None:
    """Labels of a folder set in a file; that of the first image is given."""
    labels = [first, *(i % 2 for i in range(1, NUMBER))]
    (root / 'list.txt').write_text(''.join(
        f'{NAMES[i % 2]}/{i}.jpg {label}\n' for i, label in enumerate(labels)))


def add_class(kind: str, root: Path) -> None:
    """A class that no sample has."""
    if kind == 'pairs':
        with open(root / 'classes.txt', 'a') as file:
            file.write('never\n')
    else:
        edit_coco(root, lambda c: c['categories'].append(
            dict(id=3, name='never')), ('train', 'val'))


def spoil(kind: str, fault: str, root: Path) -> Path:
    """Put a fault into the first training sample; returns its image."""
    path = root / FIRST[kind]
    labels = root / 'labels/train/0.png'

    def box(values: list[float]) -> None:
        edit_coco(root, lambda c: c['annotations'][0].update(bbox=values))

    dict(missing=path.unlink,
         empty=lambda: path.write_bytes(b''),
         truncated=lambda: path.write_bytes(path.read_bytes()[:900]),
         junk=lambda: path.write_bytes(b'no image'),
         tiny=lambda: picture(path, size=(1, 1)),
         long=lambda: picture(path, size=(10000, 20)),
         label=lambda: change_labels(
             labels, lambda a: np.where(a == 1, 2, a).astype(np.uint8)),
         listed_label=lambda: write_list(root, 7),
         colours=lambda: change_labels(
             labels, lambda a: np.stack([a] * 3, -1)),
         no_label_map=labels.unlink,
         no_area=lambda: edit_xml(root, '<xmax>28', '<xmax>9'),
         inverted=lambda: edit_xml(root, '<xmax>28', '<xmax>2'),
         cmyk=lambda: convert(path, 'CMYK'),
         flat_box=lambda: box([8, 8, 0, 24]),
         outside=lambda: box([50, 30, 90, 90]),
         not_annotated=lambda: edit_coco(
             root, lambda c: c['annotations'].pop(0)),
         unknown_class=lambda: edit_coco(
             root, lambda c: c['annotations'][0].update(category_id=99)),
         rare_class=lambda: add_class(kind, root))[fault]()
    return path


LEFT_OUT = [
    *((kind, fault) for kind in ('folder', 'coco', 'pairs', 'voc')
      for fault in ('empty', 'truncated', 'junk')),
    ('coco', 'missing'), ('voc', 'missing'),
    # Of these the frameworks make infinite losses or an index error.
    ('coco', 'tiny'), ('voc', 'no_area'), ('voc', 'inverted'),
    ('pairs', 'label'), ('folder', 'listed_label'),
    ('coco', 'long'), ('pairs', 'long'), ('pairs', 'colours'),
    ('pairs', 'no_label_map'),
]
# Nothing is said of these; tools/prepare_data.py check names them.
READ = [
    ('folder', 'cmyk'), ('folder', 'tiny'), ('folder', 'long'),
    ('coco', 'cmyk'), ('coco', 'flat_box'), ('coco', 'outside'),
    ('coco', 'not_annotated'), ('coco', 'unknown_class'),
    ('coco', 'rare_class'), ('pairs', 'cmyk'), ('pairs', 'rare_class'),
]
# What the config of the data has to say for a fault to be seen.
OPTIONS = {'listed_label': dict(ann_file='list.txt')}

VAL_FAULTS = {
    'folder': lambda root: (root / 'val/cat/0.jpg').write_bytes(b''),
    'coco': lambda root: (root / 'val/0.jpg').unlink(),
    'pairs': lambda root: change_labels(
        root / 'labels/val/0.png', lambda a: a + np.uint8(7)),
    'voc': lambda root: (root / 'Annotations/004.xml').write_text('<a>'),
}
VAL_WORDS = dict(
    folder='empty file: .*val/cat/0.jpg', coco='missing image: .*val/0.jpg',
    pairs='wrong label: .*labels/val/0.png',
    voc='unreadable annotation: .*004.xml')
