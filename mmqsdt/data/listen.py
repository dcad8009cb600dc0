"""Listening to a data set while it reads its annotations.

The data set parses; what it makes of each image and each box is compared
with what it was given. Only where it refuses or drops something is looked
for the reason, to name it.
"""

import codecs
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from mmengine.dataset import BaseDataset

from ..utils.text import describe, read_json
from .images import near
from .report import Report


def is_number(value: object) -> bool:
    """Whether this is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) \
        and math.isfinite(value)


def is_box(value: object) -> bool:
    """Whether these are four finite numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and \
        all(map(is_number, value))


# What loaders and pycocotools read: key -> (what it must be, in words).
LISTS = {key: (lambda v: isinstance(v, list), 'a list')
         for key in ('images', 'annotations', 'categories')}
ANY = (lambda v: v is not None, 'a value')
NUMBER = (is_number, 'a number')
NAME = (lambda v: isinstance(v, str) and bool(v), 'a name')
IMAGE = dict(id=ANY, file_name=NAME, width=NUMBER, height=NUMBER)
CATEGORY = dict(id=ANY, name=NAME)
BOX = dict(id=ANY, image_id=ANY, category_id=ANY,
           bbox=(is_box, 'four finite numbers'), area=NUMBER, iscrowd=ANY)


def what_lacks(entry: object, keys: dict) -> str:
    """Say which key of an entry is missing or something else; '' if none."""
    if not isinstance(entry, dict):
        return f'{str(entry)[:50]!r} is no dict'
    for key, (fits, words) in keys.items():
        if key not in entry:
            return f'no {key}'
        if not fits(entry[key]):
            return f'{key} is {repr(entry[key])[:50]}, expected {words}'
    return ''


class Listener:
    """Listens to a data set of any type.

    Args:
        dataset (BaseDataset): Built, not read yet.
        report (Report): What is found is added to it.
        truth (bool): Whether annotations are needed.
    """

    def __init__(self, dataset: BaseDataset, report: Report,
                 truth: bool) -> None:
        self.dataset, self.report, self.truth = dataset, report, truth
        self.listed: list[dict] = []  # before the filter
        self.filter, dataset.filter_data = dataset.filter_data, self.keep
        self.parse, dataset.parse_data_info = \
            dataset.parse_data_info, self.parse_image

    def leave(self) -> None:
        """Leave the data set as it is without a listener."""
        for name in ('filter_data', 'parse_data_info', 'COCOAPI',
                     '_parse_instance_info'):
            vars(self.dataset).pop(name, None)

    def parse_image(self, raw: dict) -> dict | None:
        """Parse what is said of an image."""
        return self.parse(raw)

    def keep(self) -> list[dict]:
        """Filter as the data set does, and note what it leaves out."""
        self.dataset.data_list = [
            info for info in self.dataset.data_list if info is not None]
        self.listed = list(self.dataset.data_list)
        kept = self.filter()
        left = {id(info) for info in kept}
        for info in self.listed:
            # Those without annotations are noted as such.
            if id(info) not in left and info.get('instances') != []:
                self.report.add(
                    'filtered image', info.get('img_path'),
                    f'{info.get("width")} x {info.get("height")}, filter_cfg '
                    f'{self.dataset.filter_cfg}')
        return kept

    def refused(self, fault: str, where: object, why: str) -> None:
        """Note what the data set itself stops at."""
        self.report.add(fault, where, why)
        self.report.stops.append(f'{fault}: {where}: {why}')

    def explain(self, error: Exception) -> None:
        """Say why the data set could not be read."""
        self.refused('unreadable annotation',
                     self.dataset.ann_file or self.report.name,
                     describe(error))


class CocoListener(Listener):
    """Listens to a data set that reads a COCO json by pycocotools."""

    def __init__(self, dataset: BaseDataset, report: Report,
                 truth: bool) -> None:
        super().__init__(dataset, report, truth)
        self.open, dataset.COCOAPI = dataset.COCOAPI, self.open_json
        self.api, self.boxes, self.corners = None, 0, 0

    def open_json(self, path: str) -> object:
        """Open the json, and compare its lists."""
        self.api = self.open(path)
        content = self.api.dataset
        wanted = LISTS if self.truth else dict(
            images=LISTS['images'], categories=LISTS['categories'])
        lacking = [key for key in wanted if what_lacks(
            content, {key: LISTS[key]})]
        if lacking:
            self.refused('unreadable annotation', self.dataset.ann_file,
                         f'no list {", ".join(lacking)}')
        for key in LISTS:
            ids = Counter(entry['id'] for entry in content.get(key) or ())
            for number, times in ids.items():
                if times > 1:
                    self.report.add('duplicate id', self.dataset.ann_file,
                                    f'{number} of {times} {key}')
        for box in content.get('annotations') or ():
            if box['image_id'] not in self.api.imgs:
                self.report.add('unknown image', f'annotation {box["id"]}',
                                f'image {box["image_id"]!r}')
        self._compare_classes([
            category['name'] for category in content.get('categories') or ()])
        return self.api

    def _compare_classes(self, found: list[str]) -> None:
        """Categories are numbered in the order of the json, not the config's.

        A category that the json lacks has no number: a result of that class
        ends an evaluation.
        """
        classes, where = self.dataset.metainfo['classes'], \
            self.dataset.ann_file
        missing = [name for name in classes if name not in found]
        unused = [name for name in found if name not in classes]
        for name in missing:
            self.report.add('missing class', where, name)
        for name in unused:
            self.report.add('unused class', where, name)
        if missing and unused:
            self.report.add(
                'class list', where, f'no category {missing[0]!r}, and no '
                f'class {unused[0]!r}: misspelt?')
        used = [name for name in found if name in classes]
        if used != list(classes[:len(used)]):
            self.report.add(
                'class list', where, 'categories in another order than the '
                'classes, or with gaps: ' + ', '.join(
                    f'{name} is class {i}' for i, name in enumerate(used)
                    if name != classes[i]))
        elif missing and self.dataset.test_mode:
            self.report.add(
                'class list', where, f'no category {missing[0]!r}, which is a '
                'class: an evaluation ends with an IndexError at the first '
                'result of it; list it among the categories')

    def parse_image(self, raw: dict) -> dict | None:
        """Parse; if not all boxes come out, each by itself, to see which."""
        image, boxes = raw['raw_img_info'], raw['raw_ann_info']
        path = image.get('file_name') or f'image {image.get("id")}'
        lacking = what_lacks(image, IMAGE)
        whole = not lacking and not any(
            what_lacks(box, BOX) for box in boxes) and self.parse(raw)
        self.boxes += len(boxes)
        if whole and len(whole['instances']) == len(boxes):
            for box, instance in zip(boxes, whole['instances']):
                instance['id'] = box['id']
                self.corners += _fits_as_corners(box['bbox'], image)
            return whole
        try:
            parsed = None if lacking else self.parse(
                dict(raw_img_info=image, raw_ann_info=[]))
        except Exception as error:
            lacking = describe(error)
        if lacking:
            self.refused('unreadable annotation',
                         f'{self.dataset.ann_file}, {path}', lacking)
            return None
        for box in boxes:
            where = f'{parsed["img_path"]}, annotation {box.get("id")}'
            lacking = what_lacks(box, BOX)
            try:
                found = self.parse(dict(
                    raw_img_info=image, raw_ann_info=[box]))['instances']
            except Exception as error:
                self.refused('bad box', where, lacking or describe(error))
                continue
            if lacking:
                self.report.add('bad box', where, lacking)
                continue
            self.corners += _fits_as_corners(box['bbox'], image)
            if not found:
                self._note_lost(box, where)
            for instance in found:
                parsed['instances'].append(dict(instance, id=box['id']))
        return parsed

    def _note_lost(self, box: dict, where: str) -> None:
        """Say why the data set has dropped a box."""
        category = box['category_id']
        _, _, width, height = box['bbox']
        if box.get('ignore'):
            return
        if self.api is not None and category not in self.api.cats:
            self.report.add('unknown class', where, f'category {category!r}')
        elif category in self.dataset.cat_ids:
            flat = min(width, height) < 1 or box['area'] <= 0
            self.report.add(
                'box without area' if flat else 'box outside', where,
                f'{box["bbox"]}, area {box["area"]}')

    def keep(self) -> list[dict]:
        """Filter; by then all boxes are known."""
        if self.corners > max(2, self.boxes // 2):
            self.report.add(
                'bad box', self.dataset.ann_file,
                f'{self.corners} of {self.boxes} boxes leave their image, and '
                'would not if they were corners (x1, y1, x2, y2): COCO has '
                'x, y, width, height')
        return super().keep()

    def explain(self, error: Exception) -> None:
        """Name the entry that the json lacks, or has of another kind."""
        path = self.dataset.ann_file
        try:
            content = read_json(path)
            with open(path, 'rb') as file:
                if file.read(3) == codecs.BOM_UTF8:
                    raise ValueError('it starts with a byte order mark; save '
                                     'it as UTF-8 without one')
        except (OSError, ValueError) as reason:
            return self.refused('unreadable annotation', path,
                                str(reason).removeprefix(f'{path} '))
        lacking = what_lacks(content, LISTS)
        if not lacking:
            for name, keys in (('images', IMAGE), ('categories', CATEGORY),
                               ('annotations', BOX)):
                for index, entry in enumerate(content[name]):
                    lacking = what_lacks(entry, keys)
                    if lacking:
                        number = entry.get('id', f'number {index}') \
                            if isinstance(entry, dict) else f'number {index}'
                        return self.refused(
                            'unreadable annotation', path,
                            f'{name}, entry {number}: {lacking}')
        self.refused('unreadable annotation', path,
                     lacking or describe(error))


def _fits_as_corners(box: list[float], image: dict) -> bool:
    x, y, width, height = box
    right, bottom = image['width'] + 1, image['height'] + 1
    leaves = x + width > right or y + height > bottom
    return leaves and x < width <= right and y < height <= bottom


class VocListener(Listener):
    """Listens to a data set that reads an xml for each image."""

    def __init__(self, dataset: BaseDataset, report: Report,
                 truth: bool) -> None:
        super().__init__(dataset, report, truth)
        self.parse_objects, dataset._parse_instance_info = \
            dataset._parse_instance_info, self.parse_tree

    def parse_image(self, raw: dict) -> dict | None:
        """Parse an xml; one that defines entities could fill the memory."""
        path = raw['xml_path']
        try:
            if b'<!ENTITY' in Path(path).read_bytes():
                raise ValueError('defines entities')
            self.path = path
            return self.parse(raw)
        except Exception as error:
            self.refused('unreadable annotation', path, _why(path, error))
            return None

    def parse_tree(self, tree: ElementTree.ElementTree, *args,
                   **kwargs) -> list[dict]:
        """Parse the objects of an xml, and note those that are dropped."""
        found = self.parse_objects(tree, *args, **kwargs)
        for entry in tree.findall('object'):
            name = entry.findtext('name')
            if name not in self.dataset.metainfo['classes']:
                self.report.add('unused class', self.path, name)
        return found


def _why(path: str, error: Exception) -> str:
    """Name the element of an xml at which a data set stopped."""
    numbers = [f'bndbox/{side}' for side in ('xmin', 'ymin', 'xmax', 'ymax')]
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314
    except OSError as reason:
        return f'{reason.strerror} {near(Path(path))}'.strip()
    except ElementTree.ParseError as reason:
        return str(reason)
    entries: list[tuple[ElementTree.Element, list[str], Callable]] = [
        (size, ['width', 'height'], int) for size in root.findall('size')]
    entries += [(box, numbers, lambda text: int(float(text)))
                for box in root.findall('object')]
    for entry, wanted, read in entries:
        for key in wanted:
            text = entry.findtext(key)
            try:
                read(text)
            except (TypeError, ValueError, OverflowError):
                what = f'{entry.tag} {entry.findtext("name", "")}'.strip()
                return f'{what}: {key} is {text!r}, expected a number'
    return describe(error)


def listen(dataset: BaseDataset, report: Report, truth: bool) -> Listener:
    """Listen to a data set; see :class:`Listener`."""
    reader = next(base.__name__ for base in type(dataset).__mro__
                  if 'load_data_list' in vars(base))
    if reader == 'CocoDataset' and dataset.COCOAPI.__name__ == 'COCO':
        return CocoListener(dataset, report, truth)
    if reader == 'XMLDataset':
        return VocListener(dataset, report, truth)
    return Listener(dataset, report, truth)
