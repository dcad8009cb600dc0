"""Going through the samples of a data set by the steps of its own pipeline."""

import math
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.dataset import BaseDataset, Compose
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from ..utils.text import describe
from .images import Picture, look_at
from .report import Report

# What mmcv reads into three channels of 8 bits without loss of meaning.
USUAL_MODES = ('RGB', 'L', 'RGBA', 'P', '1')
MIN_SIDE = 16  # pixels: half the stride of the last feature map
MAX_RATIO = 10  # of the long to the short side
FEW = 256  # samples that need no worker processes
LABEL_MAPS = 64  # that are decoded where not all are


@dataclass
class Found:
    """What was found in a sample.

    Attributes:
        faults (list[tuple]): Of ``report.FAULTS``, where, and detail.
        labels (set[int]): Classes of its label map.
        lost (list[int]): Classes of the instances that have no mask.
        label_map (bool): Whether it has one that can be read.
        ignored (bool): Whether pixels of it are ignored.
    """
    faults: list[tuple[str, object, str]] = field(default_factory=list)
    labels: set[int] = field(default_factory=set)
    lost: list[int] = field(default_factory=list)
    label_map: bool = False
    ignored: bool = False

    def add(self, fault: str, where: object, detail: str = '') -> None:
        """Note a fault."""
        self.faults.append((fault, where, detail))


class Samples(Dataset):
    """What is found in each sample of a data set.

    Args:
        dataset (BaseDataset): Read already.
        full (bool): Run its whole pipeline; else load annotations only, and
            of label maps no more than 64, evenly spread.
        files (bool): Look at image files. Default: True.
        ignored (int, optional): Value of label maps that is no class.
    """

    def __init__(self, dataset: BaseDataset, full: bool, files: bool = True,
                 ignored: int | None = 255) -> None:
        self.dataset, self.full, self.ignored = dataset, full, ignored
        pipeline = dataset.pipeline
        self.steps = list(pipeline.transforms) if isinstance(
            pipeline, Compose) else [pipeline]
        # Recordings and packed arrays are no image files.
        self.files = files and any(
            'LoadImage' in type(step).__name__ for step in self.steps)
        if not full:
            self.steps = [step for step in self.steps
                          if isinstance(step, LoadAnnotations)]
        self.stride = 1
        if not full and any(getattr(step, 'with_seg', False)
                            for step in self.steps):
            self.stride = math.ceil(max(len(dataset), 1) / LABEL_MAPS)
        dataset.pipeline = self.run
        classes = dataset.metainfo.get('classes')
        self.number = None if classes is None else len(classes)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Found:
        self.found = Found()
        self.decode = index % self.stride == 0
        if not (self.full or self.files or self.steps):
            return self.found
        if self.full:
            try:
                self.dataset.prepare_data(index)
            except Exception as error:  # before its pipeline
                self.found.add('failing pipeline', self.dataset.get_data_info(
                    index).get('img_path', f'sample {index}'),
                    describe(error))
        else:
            info = self.dataset.data_list[index]
            self.run(dict(info, instances=[
                dict(each) for each in info['instances']]
            ) if 'instances' in info else dict(info, seg_fields=[]))
        return self.found

    def run(self, data: dict) -> None:
        """Look at the image, then run the pipeline, step by step."""
        self.picture = None
        if self.files and isinstance(data.get('img_path'), (str, Path)):
            self.picture = look_at(data['img_path'], decode=self.full)
            if not self._look(self.picture, data):
                return
        if not self.decode:
            return self._look_at_file(data)
        for step in self.steps:
            flags = [each.get('ignore_flag')
                     for each in data.get('instances') or ()]
            try:
                before = data
                data = self._only_masks(step, data) if \
                    not self.full and 'instances' in data else step(data)
            except Exception as error:  # steps raise what they please
                return self._note_failure(step, before, error)
            if data is None:
                return self.found.add(
                    'failing pipeline', before.get('img_path'),
                    f'{type(step).__name__} gives nothing')
            if isinstance(step, LoadAnnotations) and not (
                    self._look_at_labels(data)
                    and self._look_at_masks(data, flags)):
                return

    def _look(self, picture: Picture, data: dict) -> bool:
        """Note what is wrong with an image; whether it can be read."""
        found, (width, height) = self.found, picture.size
        if picture.fault:
            found.add(picture.fault, picture.path, picture.detail)
            return False
        if not picture.mode:
            return True
        if self.full:
            if picture.mode not in USUAL_MODES:
                found.add('odd mode', picture.path, picture.mode)
            if min(picture.size) < MIN_SIDE:
                found.add('tiny image', picture.path, f'{width} x {height}')
            if max(picture.size) > MAX_RATIO * min(picture.size):
                found.add('long image', picture.path, f'{width} x {height}')
        said = data.get('width'), data.get('height')
        if None not in said and said != picture.size:
            found.add('wrong size', picture.path,
                      f'annotated as {said}, is {picture.size}')
        return True

    def _look_at_file(self, data: dict) -> None:
        """Note a label map that is not there, or has another size."""
        path = data.get('seg_map_path')
        if not self.files or not path:
            return
        labels = look_at(path)
        if labels.fault == 'missing image':
            self.found.add('image without label map', data.get('img_path'),
                           _no_file(labels))
        elif labels.fault:
            self.found.add(labels.fault, path, labels.detail)
        elif labels.mode and self.picture is not None and \
                self.picture.mode and labels.size != self.picture.size:
            self.found.add('wrong size', path, f'{labels.size}, the image '
                           f'{self.picture.size}')

    def _only_masks(self, step: LoadAnnotations, data: dict) -> dict:
        """Which masks are none; drawing all of them takes minutes.

        Those of an evaluation that are encoded are decoded: one that cannot
        be ends it, and nothing says which.
        """
        if not getattr(step, 'with_mask', False):
            return data
        step._process_masks(data)
        for each in data['instances'] if self.files else ():
            if _is_encoded(each.get('mask')):
                from pycocotools.mask import decode  # of detection alone
                decode(each['mask'])
        return data

    def _note_failure(self, step: object, data: dict,
                      error: Exception) -> None:
        """Name what a step of the pipeline failed at."""
        found, path = self.found, data.get('img_path')
        labels = data.get('seg_map_path')
        if 'LoadImage' in type(step).__name__:
            found.add('broken image', path, describe(error))
        elif not isinstance(step, LoadAnnotations):
            found.add('failing pipeline', path,
                      f'{type(step).__name__}: {describe(error)}')
        elif getattr(step, 'with_seg', False):
            file = look_at(labels or '', decode=True)
            if not labels or file.fault == 'missing image':
                found.add('image without label map', path, _no_file(
                    file) if labels else describe(error))
            else:  # a whole file is not to blame
                found.add(file.fault or (
                    'failing pipeline' if file.mode else 'broken image'),
                    labels, file.detail or describe(error))
        else:
            for instance in data['instances']:
                try:  # each by itself
                    one = dict(data, instances=[instance])
                    step(one) if self.full else self._only_masks(step, one)
                except Exception as reason:
                    self._no_mask(data, instance, describe(reason))
            if not found.faults:
                found.add('failing pipeline', path, describe(error))

    def _look_at_masks(self, data: dict, flags: list) -> bool:
        """Note masks that were ignored, or that have no pixel."""
        instances = data.get('instances') or ()
        masks = data.get('gt_masks')
        fits = self.picture is None or self.picture.size == (
            data.get('width'), data.get('height'))
        for i, (instance, flag) in enumerate(zip(instances, flags)):
            if flag:
                continue  # a crowd
            if instance.get('ignore_flag'):
                self._no_mask(data, instance, 'ignored')
            elif masks is not None and fits and not masks.areas[i]:
                self._no_mask(data, instance,
                              'no pixel is in its segmentation')
        return True

    def _no_mask(self, data: dict, instance: dict, why: str) -> None:
        self.found.add(
            'broken mask' if _is_encoded(instance.get('mask'))
            else 'box without mask',
            f'{data.get("img_path")}, annotation {instance.get("id")}',
            _kind_of(instance) or why)
        self.found.lost.append(instance['bbox_label'])

    def _look_at_labels(self, data: dict) -> bool:
        """Note what is wrong with a label map; whether it can be used."""
        labels, path = data.get('gt_seg_map'), data.get('seg_map_path')
        if labels is None:
            return True
        if labels.ndim != 2:
            self.found.add('label map of colors', path,
                           f'{labels.shape[-1]} channels')
            return False
        usable, self.found.label_map = True, True
        if self.picture is not None and self.picture.mode and \
                labels.shape[::-1] != self.picture.size:
            self.found.add('wrong size', path, f'{labels.shape[::-1]}, the '
                           f'image {self.picture.size}')
            usable = False
        first = 1 if data.get('reduce_zero_label') else 0
        counts = np.bincount(labels.ravel())
        values = set(np.flatnonzero(counts).tolist())
        self.found.ignored = self.ignored in values
        values.discard(self.ignored)
        if not values:
            self.found.add('image without annotation', path,
                           'all pixels are ignored')
        wrong = [] if self.number is None else sorted(
            value for value in values if value >= self.number)
        self.found.labels = values - set(wrong)
        highest = _highest(path)
        if highest > 255:
            self.found.add('wrong label', path, f'values up to {highest}, of '
                           'which the last 8 bits are taken')
            usable = False
        elif wrong:
            few = ', '.join(str(value + first) for value in wrong[:5])
            self.found.add(
                'wrong label', path, f'{few}{", ..." if wrong[5:] else ""} '
                f'in {counts[wrong].sum()} pixels; the last class is '
                f'{self.number - 1 + first}')
            usable = False
        return usable


def _no_file(file: Picture) -> str:
    return f'no {file.path}' + (f': {file.detail}' if file.detail else '')


def _highest(path: str) -> int:
    """Return the highest value of a label map over 8 bits, else 0."""
    with Image.open(path) as image:
        if image.mode[0] not in 'IF':
            return 0
        return int(np.asarray(image).max())


def _is_encoded(mask: object) -> bool:
    return isinstance(mask, dict) and isinstance(
        mask.get('counts'), (str, bytes))


def _kind_of(instance: dict) -> str:
    """Name what stands in place of a mask; '' if it may be one."""
    mask = instance.get('mask')
    if not mask:
        return 'no segmentation'
    if isinstance(mask, list) and not any(
            isinstance(each, list) and len(each) >= 6 and not len(each) % 2
            for each in mask):
        return f'segmentation {str(mask)[:60]} is no list of polygons, each ' \
            'of three points or more, x and y of each'
    if isinstance(mask, dict) and not {'size', 'counts'} <= mask.keys():
        return f'segmentation has {", ".join(mask)}, not size and counts'
    return ''


def go_through(samples: Samples, label: str,
               progress: bool = True) -> Iterator[Found]:
    """All samples, in order, by as many processes as there are cores.

    Args:
        samples (Samples): Of a data set.
        label (str): What the progress bar says.
        progress (bool): Show one, if on a terminal. Default: True.
    """
    workers = 0
    # What only looks at annotations takes less time than to pass it on.
    if len(samples) > FEW and (samples.full or samples.files) and \
            'fork' in multiprocessing.get_all_start_methods():
        workers = min(16, len(os.sched_getaffinity(0)) if hasattr(
            os, 'sched_getaffinity') else os.cpu_count() or 1)
    loader = DataLoader(
        samples, batch_size=None, num_workers=workers,
        multiprocessing_context='fork' if workers else None)
    console = Console(stderr=True)
    yield from track(loader, label, total=len(samples), console=console,
                     disable=not (progress and console.is_terminal))


def count_labels(info: dict, classes: tuple, report: Report) -> None:
    """Count the classes of a sample.

    Args:
        info (dict): As the data set has read it.
        classes (tuple): Their names.
        report (Report): They are counted in it.
    """
    if 'gt_label' in info:
        labels = np.ravel(info['gt_label']).tolist()
    else:
        labels = [each['bbox_label'] for each in info.get('instances') or ()
                  if not each.get('ignore_flag')]  # crowds, difficult ones
    for label in labels:
        if not 0 <= label < len(classes):
            report.add('wrong label', info.get('img_path'),
                       f'{label} of {len(classes)} classes')
            continue
        report.annotations += 1
        report.classes[classes[label]] += 1


def note_boxes(info: dict, report: Report) -> None:
    """Note what is unusual about the boxes of a sample."""
    path = info.get('img_path')
    if info.get('instances') == []:
        report.add('image without annotation', path)
    for each in info.get('instances') or ():
        left, top, right, bottom = box = each['bbox']
        where = f'{path}, annotation {each["id"]}' if 'id' in each else path
        width, height = info.get('width'), info.get('height')
        if right - left < 1 or bottom - top < 1:
            report.add('box without area', where, f'{box}')
        elif width and height and (
                # Annotations are rounded: a pixel more is no fault.
                min(right, width) - max(left, 0) < right - left - 1 or
                min(bottom, height) - max(top, 0) < bottom - top - 1):
            report.add('box outside', where,
                       f'{box}, the image {width} x {height}')


