"""Digits data sets: real scanned digits on photographs, with no download.

scikit-learn ships 1797 handwritten digits (8x8 scans, 17 gray levels) and
two photographs of 640x427 pixels. Three data sets are made from them, one
for each framework: single digits in folders (MMPretrain), scenes with boxes
and instance masks (MMDetection) and the same scenes with label maps
(MMSegmentation).

The digits and the photographs are the work of others, see ``SOURCES``: the
digits under CC BY 4.0, the photographs under CC BY 2.0. Pictures made from
them must name the authors.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from ..checkpoints.atomic import write_text
from ..utils.text import read_json
from .digit_scenes import (
    DIGITS_CLASSES,
    SPLITS,
    Scene,
    Source,
    compose_scene,
    load_source,
    render_digit,
    to_uint8,
)

try:
    from PIL import Image
    from pycocotools import mask as coco_mask
    from tqdm import tqdm
except ImportError as error:
    raise ImportError(
        'the digits data sets need pillow, pycocotools and tqdm '
        f'({error}); install them: pip install "mmqsdt[demo]"') from error

SINGLE_SIZE = 32  # pixels, images of single digits
FOLDERS = ('cls', 'det', 'seg')
MARKER = 'digits.json'  # written last: with it, the data set is complete
STAGING = '.digits_partial'
SOURCES = [
    'digits: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten '
    'Digits (test set), UCI Machine Learning Repository, CC BY 4.0',
    'china.jpg: danielbuechele, flickr.com/photos/danielbuechele/6061409035, '
    'CC BY 2.0',
    'flower.jpg: vultilion, flickr.com/photos/vultilion/6056698931, CC BY 2.0'
]

def label_map(scene: Scene) -> np.ndarray:
    """Make a scene's label map in ADE20K's convention, (S, S), uint8.

    0 would be unlabeled and never occurs, 1 is the background, 2 to 11 are
    the digits; ``reduce_zero_label=True`` makes it 0 and 1 to 10.
    """
    names = [1, *(label + 2 for label in scene.labels)]
    return np.array(names, np.uint8)[scene.owner]


def coco_annotations(scene: Scene, image_id: int,
                     first_id: int) -> list[dict]:
    """Make a scene's annotations in COCO's format, one for each digit.

    Masks are run-length codes, exact for digits that others cut in two. The
    box is the tight one around the mask, the area its number of pixels, and
    ``sample`` the digit's index in load_digits().
    """
    annotations = []
    for number, label in enumerate(scene.labels):
        mask = np.asfortranarray(scene.owner == number + 1, np.uint8)
        code = coco_mask.encode(mask)
        annotations.append(
            dict(
                id=first_id + number,
                image_id=image_id,
                category_id=label + 1,
                bbox=coco_mask.toBbox(code).tolist(),
                area=int(coco_mask.area(code)),
                segmentation=dict(
                    size=code['size'], counts=code['counts'].decode()),
                iscrowd=0,
                sample=scene.samples[number]))
    return annotations


def prepare_digits(out_dir: str | Path,
                   image_size: int = 160,
                   num_train: int = 600,
                   num_val: int = 100,
                   seed: int = 0,
                   force: bool = False,
                   progress: bool = True) -> dict:
    """Write the digits data sets, the same files for the same arguments.

    .. code-block:: none

        cls/{train,val}/<0-9>/<n>.png                 single digits, 32x32
        det/{train,val}/<k>.jpg                       scenes
        det/annotations/instances_{train,val}.json    boxes and masks (COCO)
        seg/images/{training,validation}/<k>.jpg      the same scenes
        seg/annotations/{training,validation}/<k>.png label maps (ADE20K)
        digits.json                                   how it was made

    Train and val share no digit and no part of a photograph. ``<n>`` is the
    index in scikit-learn's load_digits(). A scene is JPEG of quality 95 with
    full color resolution; what must be exact is PNG.

    Args:
        out_dir (str | Path): Folder to write to.
        image_size (int): Side of a scene in pixels, 64 to 1024; the height
            of its digits is 0.15 to 0.4 of it. Default: 160.
        num_train (int): Number of training scenes. Default: 600.
        num_val (int): Number of validation scenes. Default: 100.
        seed (int): Decides the split of the digits and all scenes.
            Default: 0.
        force (bool): Write again what is there already. Default: False.
        progress (bool): Show progress, if on a terminal. Default: True.

    Returns:
        dict: The content of ``digits.json`` (arguments, counts, sources),
        and ``written``: False if the same data set was there already.

    Raises:
        ValueError: If an argument is out of range, or ``out_dir`` holds
            something else; or if it holds digits made with other
            arguments or has lost files, and ``force`` is not set. Nothing
            has been changed then.
    """
    arguments = dict(
        image_size=image_size,
        num_train=num_train,
        num_val=num_val,
        seed=seed)
    _check_arguments(arguments)
    out_dir = Path(out_dir)
    found = _read_marker(out_dir)
    if found and not force:
        _check_same(out_dir, found, arguments)
        return dict(found, written=False)

    staging = out_dir / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    splits = {}
    for split in SPLITS:
        source = load_source(split, seed)
        _write_singles(staging / 'cls' / split, source)
        number = arguments[f'num_{split}']
        digits = _write_scenes(staging, source, image_size, number, seed,
                               progress)
        splits[split] = dict(
            single_digits=len(source.samples),
            scenes=number,
            scene_digits=digits)
    summary = dict(
        made_by='mmqsdt.datasets.prepare_digits',
        arguments=arguments,
        classes=DIGITS_CLASSES,
        splits=splits,
        files=_count_files(staging),
        sources=SOURCES)
    _move_into_place(staging, summary)
    return dict(summary, written=True)


def _check_arguments(arguments: dict) -> None:
    ranges = dict(image_size=(64, 1024), seed=(0, 2**32 - 1))
    for name, value in arguments.items():
        lowest, highest = ranges.get(name, (1, 100000))
        if not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError(f'{name} must be a whole number from {lowest} '
                             f'to {highest}, got {value!r}')


def _read_marker(out_dir: Path) -> dict | None:
    """Read ``digits.json``, or return None if the data are not complete.

    Raises:
        ValueError: If ``out_dir`` holds what this module has not written.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f'{out_dir} is a file; name a folder')
    try:
        found = read_json(out_dir / MARKER)
        if found['made_by'] == 'mmqsdt.datasets.prepare_digits':
            return found
    except FileNotFoundError:
        if (not out_dir.exists() or not any(out_dir.iterdir())
                or (out_dir / STAGING).exists()):
            return None
    except (ValueError, KeyError, TypeError):
        pass  # some other digits.json
    raise ValueError(
        f'{out_dir} holds files, but no {MARKER} of this tool, so it was not '
        'made here; remove it or name another folder')


def _check_same(out_dir: Path, found: dict, arguments: dict) -> None:
    def describe(arguments: dict) -> str:
        return ', '.join(f'{k} {v}' for k, v in arguments.items())

    if found['arguments'] != arguments:
        raise ValueError(
            f'{out_dir} holds digits scenes made with '
            f'{describe(found["arguments"])}; to replace them by '
            f'{describe(arguments)} use --force (force=True), to keep them '
            'another folder')
    files = _count_files(out_dir)
    if files < found['files']:
        raise ValueError(
            f'{out_dir} has lost files: {found["files"]} were written, '
            f'{files} are there; make it again with --force (force=True)')


def _count_files(folder: Path) -> int:
    return sum(
        path.is_file() for part in FOLDERS
        for path in (folder / part).rglob('*'))


def _write_singles(folder: Path, source: Source) -> None:
    for name in DIGITS_CLASSES:
        (folder / name).mkdir(parents=True)
    for scan, label, sample in zip(source.scans, source.labels,
                                   source.samples):
        image = to_uint8(render_digit(scan, SINGLE_SIZE) * 255)
        Image.fromarray(image).convert('RGB').save(
            folder / DIGITS_CLASSES[label] / f'{sample:04d}.png')


def _write_scenes(folder: Path, source: Source, size: int, number: int,
                  seed: int, progress: bool) -> int:
    """Write the scenes of a split; returns how many digits they show."""
    split, seg_split = source.split, SPLITS[source.split]
    det_images = folder / 'det' / split
    det_annotations = folder / 'det' / 'annotations'
    seg_images = folder / 'seg' / 'images' / seg_split
    seg_annotations = folder / 'seg' / 'annotations' / seg_split
    for path in det_images, det_annotations, seg_images, seg_annotations:
        path.mkdir(parents=True, exist_ok=True)

    images, annotations = [], []
    # disable=None: no bar where it would fill a log.
    for index in tqdm(
            range(number), f'{split} scenes', disable=not progress or None):
        scene = compose_scene(source, size, seed, index)
        name = f'{index:06d}.jpg'
        Image.fromarray(scene.image).save(
            det_images / name, quality=95, subsampling=0)
        shutil.copyfile(det_images / name, seg_images / name)
        Image.fromarray(label_map(scene)).save(
            seg_annotations / f'{index:06d}.png')
        images.append(
            dict(
                id=index,
                file_name=name,
                width=size,
                height=size,
                photo=scene.photo,
                photo_crop=scene.crop))
        annotations += coco_annotations(scene, index, len(annotations) + 1)

    content = dict(
        info=dict(description=f'Digits scenes, {split}', sources=SOURCES),
        images=images,
        annotations=annotations,
        categories=[
            dict(id=number, name=name, supercategory='digit')
            for number, name in enumerate(DIGITS_CLASSES, start=1)
        ])
    write_text(det_annotations / f'instances_{split}.json',
               json.dumps(content))
    return len(annotations)


def _move_into_place(staging: Path, summary: dict) -> None:
    """Put finished folders where they belong, and the marker after them."""
    out_dir = staging.parent
    (out_dir / MARKER).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(out_dir / name, ignore_errors=True)
        os.replace(staging / name, out_dir / name)
    write_text(out_dir / MARKER, json.dumps(summary, indent=2) + '\n')
    staging.rmdir()
