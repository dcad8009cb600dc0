"""Checks of image folders and of images with label maps."""

from collections.abc import Callable
from pathlib import Path

from .images import (
    LabelMap,
    Picture,
    inspect_all,
    inspect_image,
    inspect_label_map,
    note_oddities,
)
from .layout import IMAGE_SUFFIXES, Part, read_lines
from .report import Report

IGNORED = 255  # mmseg's ignore_index


def check_folder(part: Part,
                 report: Report,
                 inspect: Callable = inspect_image,
                 progress: bool = True) -> None:
    """A folder for each class, or a list of images and labels.

    Args:
        part (Part): Of kind 'folder'.
        report (Report): What is found is added to it.
        inspect (Callable): How to look at an image. Default: decode it.
        progress (bool): Show a progress bar. Default: True.
    """
    samples = part.samples
    if samples is None:
        folders = sorted(p for p in part.images.iterdir() if p.is_dir())
        names = [folder.name for folder in folders]
        if part.classes is None:
            part.classes = tuple(names)
        elif len(part.classes) != len(names):
            report.add('class list', part.images,
                       f'{len(names)} folders, but {len(part.classes)} '
                       'classes')
        samples = []
        for label, folder in enumerate(folders):
            for path in sorted(p for p in folder.rglob('*') if p.is_file()):
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    samples.append((str(path), label))
                else:
                    report.add('file of another kind', path)
    classes = part.classes or ()
    report.classes.update(dict.fromkeys(classes, 0))
    report.images = len(samples)
    for path, label in samples:
        if not 0 <= label < len(classes):
            report.add('wrong label', path,
                       f'{label} of {len(classes)} classes')
            continue
        report.annotations += 1
        report.classes[classes[label]] += 1
    paths = [Path(path) for path, _ in samples]
    for picture in inspect_all(paths, inspect, report.name, progress):
        note_picture(report, picture)
    report.add_counts()


def note_picture(report: Report, picture: Picture) -> bool:
    """Add what is wrong with an image. Returns whether it can be read."""
    if picture.fault:
        report.add(picture.fault, picture.path, picture.detail)
        return False
    if picture.mode:  # it was decoded
        note_oddities(report, picture)
    return True


def check_pairs(part: Part,
                report: Report,
                inspect: Callable = inspect_image,
                progress: bool = True) -> None:
    """Images and label maps of the same names.

    A value v of a label map is a class if it is below the number of classes;
    with ``ignore_zero`` 0 is ignored and v stands for class v - 1. 255 is
    ignored.

    Args:
        part (Part): Of kind 'pairs'.
        report (Report): What is found is added to it.
        inspect (Callable): How to look at an image. Default: decode it.
        progress (bool): Show a progress bar. Default: True.
    """
    pairs = _find_pairs(part, report)
    report.images = len(pairs)
    first = 1 if part.ignore_zero else 0
    found: dict[int, int] = {}  # value -> images

    def inspect_pair(pair: tuple[Path, Path]) -> tuple[Picture, LabelMap]:
        return inspect(pair[0]), inspect_label_map(pair[1])

    for picture, label_map in inspect_all(pairs, inspect_pair, report.name,
                                          progress):
        readable = note_picture(report, picture)
        if label_map.fault == 'missing image':
            report.add('image without label map', picture.path,
                       f'no {label_map.path}')
        elif label_map.fault:
            report.add(label_map.fault, label_map.path, label_map.detail)
        else:
            report.annotations += 1
            if readable and picture.mode and \
                    label_map.size != picture.size:
                report.add('wrong size', label_map.path,
                           f'{label_map.size}, the image {picture.size}')
            _note_values(part, report, label_map, first, found)
    _count_classes(part, report, first, found)
    report.add_counts()


def _find_pairs(part: Part, report: Report) -> list[tuple[Path, Path]]:
    if part.names is not None:
        stems = read_lines(part.names)
    else:
        stems = []
        for path in sorted(p for p in part.images.rglob('*') if p.is_file()):
            if path.name.endswith(part.image_suffix):
                stems.append(str(path.relative_to(part.images))
                             .removesuffix(part.image_suffix))
            else:
                report.add('file of another kind', path,
                           f'not {part.image_suffix}')
        for path in sorted(part.annotations.rglob('*' + part.label_suffix)):
            stem = str(path.relative_to(part.annotations)).removesuffix(
                part.label_suffix)
            if not (part.images / (stem + part.image_suffix)).exists():
                report.add('label map without image', path)
    return [(part.images / (stem + part.image_suffix),
             part.annotations / (stem + part.label_suffix))
            for stem in stems]


def _note_values(part: Part, report: Report, label_map: LabelMap, first: int,
                 found: dict[int, int]) -> None:
    number = None if part.classes is None else len(part.classes)
    used = [v for v in label_map.counts
            if v != IGNORED and not (v == 0 and part.ignore_zero)]
    if not used:
        report.add('image without annotation', label_map.path,
                   'all pixels are ignored')
    # mmseg keeps the last 8 bits of a value: 300 would pass as 44.
    wrong = [v for v in used if not 0 <= v < 256 or (
        number is not None and v - first >= number)]
    if wrong:
        pixels = sum(label_map.counts[v] for v in wrong)
        highest = IGNORED if number is None else number - 1 + first
        report.add('wrong label', label_map.path,
                   f'{_few(sorted(wrong))} in {pixels} pixels; the last '
                   f'class is {highest}')
    for value in set(used) - set(wrong):
        found[value] = found.get(value, 0) + 1


def _few(values: list[int], most: int = 5) -> str:
    text = ', '.join(map(str, values[:most]))
    return text + (', ...' if len(values) > most else '')


def _count_classes(part: Part, report: Report, first: int,
                   found: dict[int, int]) -> None:
    if part.classes is None:
        report.classes.update({
            str(value): found[value] for value in sorted(found)})
        return
    for index, name in enumerate(part.classes):
        report.classes[name] = found.get(index + first, 0)
