"""Reading images and label maps to see whether they can be read."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

# What mmcv reads into three channels of 8 bits without loss of meaning.
USUAL_MODES = ('RGB', 'L', 'RGBA', 'P', '1')
MIN_SIDE = 16  # pixels: half the stride of the last feature map
MAX_RATIO = 10  # of the long to the short side
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 turn the image by 90 degrees
JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
TAIL = 1024  # bytes in which a JPEG's end is looked for
AT_ONCE = 512  # files handed to the threads at a time


@dataclass(frozen=True)
class Picture:
    """An image file as it was found.

    Attributes:
        path (Path): The file.
        fault (str): Of ``report.FAULTS``, why it cannot be read; or ''.
        detail (str): What the decoder said.
        size (tuple[int, int]): Width and height in pixels, as shown: turned
            as its EXIF data say, which mmcv does too.
        mode (str): Pillow's name of its channels.
    """
    path: Path
    fault: str = ''
    detail: str = ''
    size: tuple[int, int] = (0, 0)
    mode: str = ''


@dataclass(frozen=True)
class LabelMap(Picture):
    """A label map, and how many pixels have each value."""

    counts: dict[int, int] = field(default_factory=dict)


def inspect_image(path: Path) -> Picture:
    """Decode an image, all of it."""
    return _inspect(path)[0]


def glance(path: Path) -> Picture:
    """Look at an image file without decoding it; no size is known then."""
    return Picture(path, *find_file_fault(path))


def inspect_label_map(path: Path) -> LabelMap:
    """Decode a label map and count its values."""
    picture, pixels = _inspect(path)
    known = vars(picture)
    if picture.fault:
        return LabelMap(**known)
    if pixels.ndim != 2 or pixels.dtype.kind not in 'ubi':
        return LabelMap(**dict(
            known, fault='label map of colours',
            detail=f'mode {picture.mode}'))
    if pixels.dtype == np.uint8:
        counts = np.bincount(pixels.ravel())
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(pixels, return_counts=True)
    return LabelMap(**known, counts={
        int(v): int(n) for v, n in zip(values, counts)})


def _inspect(path: Path) -> tuple[Picture, np.ndarray | None]:
    fault, detail = find_file_fault(path)
    if fault:
        return Picture(path, fault, detail), None
    try:
        with Image.open(path) as image:
            size, mode = image.size, image.mode
            turned = image.format in ('JPEG', 'MPO') and \
                image.getexif().get(ORIENTATION, 1) >= 5
            pixels = np.asarray(image)  # decodes
    except Exception as error:  # decoders raise what they please
        truncated = 'truncated' in str(error) or isinstance(error, EOFError)
        fault = 'truncated image' if truncated else 'broken image'
        return Picture(path, fault, str(error)[:200]), None
    return Picture(path, size=size[::-1] if turned else size, mode=mode), \
        pixels


def find_file_fault(path: str | Path) -> tuple[str, str]:
    """What can be told of a file without decoding it.

    The end marker of a JPEG cannot occur in compressed data, so a JPEG that
    has one near its end was not cut off. Some cameras append other data:
    where the marker is not found, Pillow decodes the file to find out.

    Args:
        path (str | Path): An image.

    Returns:
        tuple[str, str]: Fault and detail, both '' if none was seen.
    """
    try:
        size = os.path.getsize(path)
        with open(path, 'rb') as file:
            start = file.read(2)
            file.seek(max(0, size - TAIL))
            end = file.read()
    except FileNotFoundError:
        return 'missing image', ''
    except OSError as error:
        return 'broken image', error.strerror or str(error)
    if size == 0:
        return 'empty file', ''
    if start == JPEG_START and JPEG_END not in end:
        try:
            with Image.open(path) as image:
                image.load()
        except Exception as error:
            return 'truncated image', str(error)[:200]
    return '', ''


def note_oddities(report, picture: Picture) -> None:
    """Add what is unusual about a readable image to a report."""
    width, height = picture.size
    if picture.mode not in USUAL_MODES:
        report.add('odd mode', picture.path, picture.mode)
    if min(width, height) < MIN_SIDE:
        report.add('tiny image', picture.path, f'{width} x {height}')
    if max(width, height) > MAX_RATIO * min(width, height):
        report.add('long image', picture.path, f'{width} x {height}')


def inspect_all(items: list, inspect: Callable, label: str,
                progress: bool = True) -> Iterator:
    """Inspect in threads, in order; decoders leave Python's lock free.

    Args:
        items (list): Arguments of ``inspect``.
        inspect (Callable): Of one item.
        label (str): What the progress bar says.
        progress (bool): Show one, if on a terminal. Default: True.
    """
    console = Console(stderr=True)
    workers = min(16, len(os.sched_getaffinity(0)) if hasattr(
        os, 'sched_getaffinity') else os.cpu_count() or 1)

    def run() -> Iterable:
        with ThreadPoolExecutor(workers) as pool:
            # In portions: a million waiting calls would fill the memory.
            for first in range(0, len(items), AT_ONCE):
                yield from pool.map(inspect, items[first:first + AT_ONCE])

    yield from track(run(), label, total=len(items), console=console,
                     disable=not (progress and console.is_terminal))
