"""From parquet files of the Hugging Face hub to the usual layouts.

The files are read where they are, with the ``datasets`` library, row by row;
nothing is downloaded. Each file that is written is whole or not there, and
what is there already is not written again: a conversion that was interrupted
goes on where it was.
"""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from ..utils.configs import tool_command
from ..utils.text import read_json
from .ade150 import IMAGES, benchmark_size, to_150
from .parquet import (
    State,
    class_names,
    convert_shards,
    find_shards,
    image_bytes,
    write_whole,
)

# isort: split
from datasets import Image, List  # parquet says what to do without it

SYNSET = re.compile(r'_(n\d{8})$')
ADE_NAME = re.compile(r'^ADE_(train|val)_(\d{8})$')
QUALITY = 95  # of JPEG, where an image must be written anew
# COCO's category numbers: 1 to 90 without these.
COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
BOX_FORMATS = ('corners', 'sizes')


def convert_imagenet(source: str | Path, dest: str | Path) -> list[str]:
    """``ILSVRC/imagenet-1k`` to ``train/<synset>/*.JPEG`` and ``val/``.

    Images are written as they are. A label becomes the folder that sorts to
    its place: the synset, which the file names end in, or, without, the
    label in four digits.

    Args:
        source (str | Path): Folder of the parquet files: columns image and
            label.
        dest (str | Path): Such as data/imagenet.

    Returns:
        list[str]: What was done, for people.

    Raises:
        ValueError: If file names and labels do not agree.
    """
    dest = Path(dest)
    state = State(dest, 'imagenet')
    folders = state.content['folders']  # label -> folder

    def convert(shard: Path, split: str, rows: Iterator) -> dict:
        images = 0
        for number, row in enumerate(rows):
            label = row['label']
            path = Path(row['image'].get('path') or
                        f'{shard.stem}_{number:06d}.JPEG')
            synset = SYNSET.search(path.stem)
            folder = synset[1] if synset else f'{label:04d}'
            if folders.setdefault(str(label), folder) != folder:
                raise ValueError(
                    f'{shard}, row {number}: label {label} is of '
                    f'{folders[str(label)]} elsewhere, here of {folder}')
            name = SYNSET.sub('', path.stem) + path.suffix
            target = dest / split / folder / name
            if not target.exists():
                write_whole(target, image_bytes(row['image'],
                                                f'{shard}, row {number}'))
            images += 1
        return dict(images=images)

    convert_shards(source, state, dict(image=Image(decode=False), label=None),
                   convert)
    ordered = [folders[label] for label in sorted(folders, key=int)]
    if ordered != sorted(ordered):
        raise ValueError(f'{dest}: the folders do not sort in the order of '
                         'the labels, so a folder set would number them '
                         'otherwise')
    return [
        f'{dest}: {state.total("images")} images of {len(folders)} classes, '
        f'{state.total("left_out")} test images without labels left out',
        'as they were in the parquet files; check them: '
        f'{tool_command("prepare_data")} check configs/cls/qsdt_imagenet.py'
    ]


def convert_ade20k(source: str | Path, dest: str | Path) -> list[str]:
    """``1aurent/ADE20K`` to the layout of ADEChallengeData2016.

    The hub has all of ADE20K, release of 2021: more than 3000 classes. The
    images of the benchmark are taken by their names, the classes by the
    published mapping, the sizes as the published script has them.

    Args:
        source (str | Path): Folder of the parquet files: columns image,
            segmentations and filename.
        dest (str | Path): Such as data/ade/ADEChallengeData2016.

    Returns:
        list[str]: What was done, and in what it differs from the archive.
    """
    dest = Path(dest)
    state = State(dest, 'ade20k')

    def convert(shard: Path, split: str, rows: Iterator) -> dict:
        counts = dict(images=0, left_out=0)
        for row in rows:
            stem = Path(row['filename']).stem
            name = ADE_NAME.match(stem)
            if name is None or int(name[2]) > IMAGES[name[1]]:
                counts['left_out'] += 1
                continue
            part = dict(train='training', val='validation')[name[1]]
            image = dest / f'images/{part}/{stem}.jpg'
            labels = dest / f'annotations/{part}/{stem}.png'
            write_ade_pair(row, image, labels)
            counts['images'] += 1
        return counts

    columns = dict(
        image=Image(decode=False),
        segmentations=List(Image(decode=False)),
        filename=None)
    convert_shards(source, state, columns, convert)
    return [
        f'{dest}: {state.total("images")} images of the {sum(IMAGES.values())}'
        f' of the benchmark, {state.total("left_out")} others left out',
        'This is not the archive ADEChallengeData2016.zip: the annotations '
        'are of the release of 2021, faces and number plates are blurred, '
        'and shrunk images were encoded again. Scores on it are close to, '
        'but not, those on the archive.'
    ]


def write_ade_pair(row: dict, image: Path, labels: Path) -> None:
    """Write an image and its label map of 150 classes, if not there yet.

    Raises:
        ValueError: If they are not of one size.
    """
    if image.exists() and labels.exists():
        return
    where = row['filename']
    content = image_bytes(row['image'], where)
    if not row['segmentations']:
        raise ValueError(f'{where} has no segmentation')
    # The first has the objects, the others parts, and parts of parts.
    with Pillow.open(io.BytesIO(image_bytes(
            row['segmentations'][0], where))) as segmentation:
        label_map = to_150(np.asarray(segmentation.convert('RGB')))
    with Pillow.open(io.BytesIO(content)) as picture:
        if picture.size != label_map.shape[::-1]:
            raise ValueError(f'{where}: image {picture.size}, annotation '
                             f'{label_map.shape[::-1]}')
        size = benchmark_size(*picture.size)
        if size != picture.size or picture.format != 'JPEG':
            shrunk = picture.convert('RGB').resize(
                size, Pillow.Resampling.BICUBIC)
            content = encode(shrunk, 'JPEG', quality=QUALITY)
    label_image = Pillow.fromarray(label_map).resize(
        size, Pillow.Resampling.NEAREST)
    if not labels.exists():
        write_whole(labels, encode(label_image, 'PNG'))
    if not image.exists():
        write_whole(image, content)


def encode(image: Pillow.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def convert_coco(source: str | Path, dest: str | Path,
                 boxes: str | None = None) -> list[str]:
    """COCO 2017 as in ``detection-datasets/coco`` to COCO's own layout.

    There are boxes only: no masks, no crowd flags. A detector of boxes can
    be trained; its AP differs a little from the official one, which ignores
    crowds.

    Args:
        source (str | Path): Folder of the parquet files: columns image_id,
            image, width, height and objects (bbox_id, category, bbox, area).
        dest (str | Path): Such as data/coco.
        boxes (str, optional): 'corners', (left, top, right, bottom), or
            'sizes', (left, top, width, height). Default: what the boxes
            show, of which only one fits into the images.

    Returns:
        list[str]: What was done, and what cannot be.

    Raises:
        ValueError: If both formats, or none, fit into the images.
    """
    dest = Path(dest)
    state = State(dest, 'coco')
    parts = dest / '.parts'

    def convert(shard: Path, split: str, rows: Iterator) -> dict:
        images, objects = [], []
        for number, row in enumerate(rows):
            name = f'{row["image_id"]:012d}.jpg'
            target = dest / f'{split}2017' / name
            if not target.exists():
                write_whole(target, image_bytes(row['image'],
                                                f'{shard}, row {number}'))
            images.append(dict(id=row['image_id'], file_name=name,
                               width=row['width'], height=row['height']))
            objects += [dict(each, image_id=row['image_id'])
                        for each in as_records(row['objects'])]
        write_whole(parts / f'{shard.stem}.json', json.dumps(dict(
            split=split, images=images, objects=objects)).encode())
        return dict(images=len(images), boxes=len(objects))

    columns = dict(image_id=None, image=Image(decode=False), width=None,
                   height=None, objects=None)
    convert_shards(source, state, columns, convert)
    shards = find_shards(source)
    names = class_names(shards[0][0], 'objects', 'category')
    if names is None:
        raise ValueError(f'{shards[0][0]} names no categories')
    read = [read_json(parts / f'{path.stem}.json')
            for path, split in shards if split != 'test']
    boxes = boxes or box_format(read)
    for split in sorted({part['split'] for part in read}):
        write_coco_json(dest, split, read, names, boxes)
    return [
        f'{dest}: {state.total("images")} images, {state.total("boxes")} '
        f'boxes, given by their {boxes}',
        'Boxes only: there are no masks and no crowd flags in this form. It '
        'trains configs/det/qsdt_retinanet_coco.py; Mask R-CNN needs the '
        'archives of https://cocodataset.org'
    ]


def as_records(objects: dict | list) -> list[dict]:
    """Return a list of objects, from a dict of lists or as it is."""
    if isinstance(objects, list):
        return objects
    return [dict(zip(objects, values)) for values in zip(*objects.values())]


def box_format(parts: list[dict]) -> str:
    """Which of ``BOX_FORMATS`` the boxes are in: the one that fits.

    Raises:
        ValueError: If both fit, or none does.
    """
    wrong, number = dict.fromkeys(BOX_FORMATS, 0), 0
    for part in parts:
        sizes = {i['id']: (i['width'], i['height']) for i in part['images']}
        for each in part['objects']:
            (a, b, c, d), (width, height) = each['bbox'], sizes[
                each['image_id']]
            number += 1
            wrong['corners'] += c < a or d < b or c > width + 1 \
                or d > height + 1
            wrong['sizes'] += a + c > width + 1 or b + d > height + 1
    best, other = sorted(BOX_FORMATS, key=wrong.get)
    if wrong[best] == wrong[other] or wrong[best] > 0.01 * number:
        raise ValueError(f'cannot tell the format of {number} boxes: {wrong} '
                         'do not fit into their images; say which it is: '
                         f'--boxes {" or ".join(BOX_FORMATS)}')
    return best


def write_coco_json(dest: Path, split: str, parts: list[dict],
                    names: list[str], boxes: str) -> None:
    """Write ``annotations/instances_<split>2017.json``."""
    numbers = [n for n in range(1, 91) if n not in COCO_GAPS]
    if len(names) != len(numbers):  # not COCO's own classes
        numbers = list(range(1, len(names) + 1))
    images, annotations = [], []
    for part in parts:
        if part['split'] != split:
            continue
        images += part['images']
        for each in part['objects']:
            a, b, c, d = each['bbox']
            if boxes == 'corners':
                c, d = c - a, d - b
            annotations.append(dict(
                id=len(annotations) + 1, image_id=each['image_id'],
                category_id=numbers[each['category']], bbox=[a, b, c, d],
                area=each['area'], iscrowd=0))
    content = dict(
        info=dict(description=f'COCO 2017 {split}, boxes only'),
        images=images, annotations=annotations,
        categories=[dict(id=number, name=name)
                    for number, name in zip(numbers, names)])
    write_whole(dest / f'annotations/instances_{split}2017.json',
                json.dumps(content).encode())


CONVERTERS = dict(
    imagenet=convert_imagenet, ade20k=convert_ade20k, coco=convert_coco)
