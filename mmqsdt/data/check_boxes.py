"""Checks of boxes and masks: COCO json and VOC xml."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from .check_labels import note_picture
from .images import inspect_all, inspect_image
from .layout import Part, read_lines
from .report import Report

KEYS = ('images', 'annotations', 'categories')
IMAGE_KEYS = ('id', 'file_name', 'width', 'height')
# pycocotools needs iscrowd to evaluate, MMDetection area to train.
BOX_KEYS = ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd')
MIN_BOX = 1  # pixel: MMDetection leaves smaller boxes out


def check_coco(part: Part,
               report: Report,
               inspect: Callable = inspect_image,
               progress: bool = True) -> None:
    """A COCO json and its images.

    Args:
        part (Part): Of kind 'coco'.
        report (Report): What is found is added to it.
        inspect (Callable): How to look at an image. Default: decode it.
        progress (bool): Show a progress bar. Default: True.
    """
    content = _read_json(part.annotations, report)
    if content is None:
        return
    names = {c['id']: c['name'] for c in content['categories']}
    if len(names) < len(content['categories']):
        report.add('duplicate id', part.annotations, 'of categories')
    classes = part.classes or tuple(names.values())
    part.classes = classes
    _compare_classes(part, report, list(names.values()), classes)
    images = _index_images(content['images'], part, report)
    report.images = len(images)
    report.classes.update(dict.fromkeys(classes, 0))
    annotated, ids = set(), set()
    for box in content['annotations']:
        image = _check_box(box, images, names, ids, part, report)
        if image is not None and names[box['category_id']] in classes:
            annotated.add(box['image_id'])
            report.annotations += 1
            report.classes[names[box['category_id']]] += 1
    for number, image in images.items():
        if number not in annotated:
            report.add('image without annotation',
                       part.images / image['file_name'])
    _check_pictures(report, {
        part.images / image['file_name']: (image['width'], image['height'])
        for image in images.values()
    }, inspect, progress)
    report.add_counts()


def _read_json(path: Path, report: Report) -> dict | None:
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        report.add('unreadable annotation', path, error)
        return None
    lacking = [key for key in KEYS if not isinstance(content, dict)
               or not isinstance(content.get(key), list)]
    if lacking:
        report.add('unreadable annotation', path,
                   f'no list {", ".join(lacking)}')
        return None
    return content


def _compare_classes(part: Part, report: Report, found: list[str],
                     classes: tuple[str, ...]) -> None:
    missing = [name for name in classes if name not in found]
    unused = [name for name in found if name not in classes]
    for name in missing:
        report.add('missing class', part.annotations, name)
    for name in unused:
        report.add('unused class', part.annotations, name)
    if missing and unused:
        report.add('class list', part.annotations,
                   f'no category {missing[0]!r}, and no class {unused[0]!r}: '
                   'misspelt?')
    # MMDetection numbers those that are there in the order of the json.
    used = [name for name in found if name in classes]
    if used != list(classes[:len(used)]):
        report.add('class list', part.annotations, 'categories in another '
                   'order than the classes, or with gaps: ' + ', '.join(
                       f'{name} is class {i}' for i, name in enumerate(used)
                       if name != classes[i]))


def _index_images(listed: list[dict], part: Part,
                  report: Report) -> dict[int, dict]:
    images = {}
    for image in listed:
        lacking = [key for key in IMAGE_KEYS if key not in image]
        where = image.get('file_name', f'image {image.get("id")}')
        if lacking:
            report.add('unreadable annotation', where,
                       f'no {", ".join(lacking)}')
        elif image['id'] in images:
            report.add('duplicate id', where, f'image {image["id"]}')
        else:
            images[image['id']] = image
    return images


def _check_box(box: dict, images: dict, names: dict, ids: set, part: Part,
               report: Report) -> dict | None:
    """Note what is wrong with an annotation.

    Returns:
        dict, optional: Its image, if training will see the annotation.
    """
    where = f'annotation {box.get("id")}'
    lacking = [key for key in BOX_KEYS if key not in box]
    if lacking:
        report.add('bad box', where, f'no {", ".join(lacking)}')
        return None
    if box['id'] in ids:
        report.add('duplicate id', where)
    ids.add(box['id'])
    image = images.get(box['image_id'])
    if image is None:
        report.add('unknown image', where, f'image {box["image_id"]}')
        return None
    where = f'{part.images / image["file_name"]}, {where}'
    if box['category_id'] not in names:
        report.add('unknown class', where, f'category {box["category_id"]}')
        return None
    if not is_box(box['bbox']):
        report.add('bad box', where, box['bbox'])
        return None
    if not _check_place(box, image, where, report):
        return None
    if part.masks and not box.get('segmentation'):
        report.add('box without mask', where)
    return image


def is_box(numbers: object) -> bool:
    """Whether these are four finite numbers."""
    return isinstance(numbers, list) and len(numbers) == 4 and all(
        isinstance(n, (int, float)) and math.isfinite(n) for n in numbers)


def _check_place(box: dict, image: dict, where: str, report: Report) -> bool:
    x, y, width, height = box['bbox']
    if width < MIN_BOX or height < MIN_BOX or box['area'] <= 0:
        report.add('box without area', where,
                   f'{box["bbox"]}, area {box["area"]}')
        return False
    inside_x = min(x + width, image['width']) - max(x, 0)
    inside_y = min(y + height, image['height']) - max(y, 0)
    # Annotations are rounded: a pixel more is no fault.
    if inside_x < width - 1 or inside_y < height - 1:
        report.add('box outside', where, f'{box["bbox"]}, the image '
                   f'{image["width"]} x {image["height"]}')
    return inside_x > 0 and inside_y > 0


def _check_pictures(report: Report, sizes: dict[Path, tuple[int, int]],
                    inspect: Callable, progress: bool) -> None:
    for picture in inspect_all(list(sizes), inspect, report.name, progress):
        said = sizes[picture.path]
        if note_picture(report, picture) and picture.mode and \
                said != (0, 0) and picture.size != said:
            report.add('wrong size', picture.path, f'annotated as '
                       f'{said}, is {picture.size}')


def check_voc(part: Part,
              report: Report,
              inspect: Callable = inspect_image,
              progress: bool = True) -> None:
    """VOC xml files and their images.

    Args:
        part (Part): Of kind 'voc'.
        report (Report): What is found is added to it.
        inspect (Callable): How to look at an image. Default: decode it.
        progress (bool): Show a progress bar. Default: True.
    """
    try:
        stems = read_lines(part.names)
    except OSError as error:
        report.add('unreadable annotation', part.names, error.strerror)
        return
    report.images = len(stems)
    report.classes.update(dict.fromkeys(part.classes or (), 0))
    sizes = {}
    for stem in stems:
        image = part.images / (stem + part.image_suffix)
        sizes[image] = (0, 0)
        path = part.annotations / f'{stem}.xml'
        try:
            root = read_xml(path)
            sizes[image] = tuple(
                int(root.find(f'size/{side}').text)
                for side in ('width', 'height')) \
                if root.find('size') is not None else (0, 0)
            boxes = list(read_objects(root))
        except (OSError, ElementTree.ParseError, AttributeError, TypeError,
                ValueError) as error:
            report.add('unreadable annotation', path, error)
            continue
        kept = [_check_object(name, box, sizes[image], path, part, report)
                for name, box in boxes]
        if not any(kept):
            report.add('image without annotation', path)
    if part.classes is None:
        part.classes = tuple(sorted(report.classes))
    _check_pictures(report, sizes, inspect, progress)
    report.add_counts()


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an xml file; one with its own entities is refused.

    Raises:
        ValueError: If it defines entities, which can be made to fill the
            memory.
    """
    text = path.read_bytes()
    if b'<!ENTITY' in text:
        raise ValueError('defines entities')
    return ElementTree.fromstring(text)  # noqa: S314


def read_objects(root: ElementTree.Element) -> Iterator[tuple[str, list]]:
    """Class and (left, top, right, bottom) of each object of a VOC xml."""
    for found in root.findall('object'):
        box = found.find('bndbox')
        yield found.find('name').text, [
            float(box.find(side).text)
            for side in ('xmin', 'ymin', 'xmax', 'ymax')
        ]


def _check_object(name: str, box: list[float], size: tuple[int, int],
                  path: Path, part: Part, report: Report) -> bool:
    """Note what is wrong with an object; whether it has a known class."""
    if part.classes is not None and name not in part.classes:
        report.add('unused class', path, name)
        return False
    report.annotations += 1
    report.classes[name] += 1
    left, top, right, bottom = box
    if not is_box(box):
        report.add('bad box', path, box)
    elif right - left < MIN_BOX or bottom - top < MIN_BOX:
        report.add('box without area', path, f'{name} {box}')
    elif size != (0, 0) and (left < 0 or top < 0 or right > size[0] + 1
                             or bottom > size[1] + 1):
        report.add('box outside', path, f'{name} {box}, the image '
                   f'{size[0]} x {size[1]}')
    return True
