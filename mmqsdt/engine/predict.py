"""Predictions on pictures, through the frameworks' own inferencers.

The inferencers are given a model whose weights were read safely, never a
checkpoint: they would unpickle whatever is in it.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from PIL import Image
from PIL.ImageOps import exif_transpose
from torch import nn

from ..data.classes import dataset_meta
from ..data.files import is_data
from ..data.sources import leaf_datasets
from .drawing import use_our_drawing
from .hooks.draw_predictions import enlarge, shown_factor

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.ppm', '.pgm', '.tif',
            '.tiff', '.webp')
# Pictures that are looked at are no smaller; see DrawPredictionsHook.
MIN_SHOWN_SIDE = 480


@dataclass
class Picture:
    """A picture as the model gets it.

    Attributes:
        path (Path): Its file.
        pixels (np.ndarray): (H, W, 3) uint8, BGR, upright.
        scale (float): Its size over that of the file.
    """
    path: Path
    pixels: np.ndarray
    scale: float


def find_pictures(paths: list[str]) -> list[Path]:
    """Return files as given, and the pictures in folders.

    Args:
        paths (list[str]): Files, or folders, whose subfolders are not
            searched.

    Raises:
        FileNotFoundError: If one is not there, or a folder has no picture.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file()
                            and p.suffix.lower() in SUFFIXES
                            and is_data(p.name))
            if not inside:
                raise FileNotFoundError(
                    f'no pictures in {path} (its subfolders are not '
                    f'searched); known are {" ".join(SUFFIXES)}')
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f'no picture at {path}')
    return list(dict.fromkeys(found))


def find_others(paths: list[str]) -> list[Path]:
    """List the files that :func:`find_pictures` leaves out of folders."""
    return [p for path in map(Path, paths) if path.is_dir()
            for p in sorted(path.iterdir())
            if p.is_file() and p.suffix.lower() not in SUFFIXES
            and is_data(p.name)]


def read_picture(path: Path, max_side: int = 2048) -> Picture:
    """Read a picture as the data pipelines do, if they can.

    Rotated as its EXIF entry says; 16-bit samples lose their lower 8 bits;
    transparent pixels are put on white; gray becomes three equal channels.

    Args:
        path (Path): Its file.
        max_side (int): A longer picture is shrunk to this, in pixels: scores
            of 150 classes for each pixel of a photograph fill 7 GB.
            Defaults to 2048.

    Raises:
        ValueError: If it cannot be read.
    """
    pixels = _read_transparent(path)
    if pixels is None:
        data = np.fromfile(path, np.uint8)
        pixels = mmcv.imfrombytes(data.tobytes()) if len(data) else None
    if pixels is None:
        raise ValueError(f'{path} is damaged or no picture of a known '
                         'format; save it as JPEG or PNG')
    height, width = pixels.shape[:2]
    scale = min(1., max_side / max(height, width))
    if scale * min(height, width) < 0.5:
        raise ValueError(f'{path}: of {width} x {height} pixels nothing is '
                         f'left when shrunk to {max_side}; crop it')
    if scale < 1:
        pixels = mmcv.imrescale(pixels, scale, interpolation='area')
    return Picture(path, pixels, scale)


def _read_transparent(path: Path) -> np.ndarray | None:
    """Put a transparent picture on white; None for all others.

    Raises:
        ValueError: For samples that are no brightness of known range.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ('F', 'I') and 'PNG' != image.format:
                raise ValueError(
                    f'{path} has samples of 32 bits, whose range is not '
                    'known; save it with 8 or 16 bits')
            if not image.has_transparency_data:
                return None
            return pil_pixels(image)
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return None  # the other reader may know it


def pil_pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels of a PIL image as they are read from its file.

    Returns:
        np.ndarray: (H, W, 3) uint8, BGR.

    Raises:
        ValueError: For samples of 32 bits.
    """
    if image.mode == 'F' or image.mode == 'I' and image.format != 'PNG':
        raise ValueError('expected a PIL image of 8 or 16 bits, got samples '
                         'of 32 bits, whose range is not known')
    image = exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image)
    if image.mode.startswith('I'):  # 16 bits
        gray = (np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)
        return np.stack([gray] * 3, -1)
    return np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1])


def build_inferencer(cfg: Config, model: nn.Module, device: str):
    """Make the framework's inferencer around a loaded model.

    Args:
        cfg (Config): Config of the model; not changed.
        model (nn.Module): In any form.
        device (str): Such as 'cpu', 'cuda:0'.

    Raises:
        ValueError: If the config is of another framework, or its model does
            not read pictures.
    """
    cfg = deepcopy(cfg)
    if 'test_dataloader' not in cfg:
        raise ValueError('the config has no test_dataloader, whose pipeline '
                         'prepares pictures')
    if input_channels(cfg) not in (1, 3):
        raise ValueError(f'this model reads {input_channels(cfg)} channels, '
                         'no pictures')
    meta = dataset_meta(cfg)
    # Inferencers look for the pipeline here, not within wrappers.
    cfg.test_dataloader.dataset = next(
        leaf_datasets(cfg.test_dataloader.dataset))
    # Drawings are written by name; what keeps them in a work dir is not used.
    if 'visualizer' in cfg:
        cfg.visualizer.vis_backends = None
    model = model.to(device).eval()
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain import ImageClassificationInferencer
        from mmpretrain.utils import progress
        progress.disable_progress_bar = True  # else one for each picture
        model._config = cfg
        return ImageClassificationInferencer(
            model, pretrained=False, classes=meta.get('classes'))
    if cfg.default_scope == 'mmdet':
        from mmdet.apis import DetInferencer as Inferencer
        model.dataset_meta = meta
    elif cfg.default_scope == 'mmseg':
        from mmseg.apis import MMSegInferencer as Inferencer
        model.dataset_meta = {k: meta.get(k) for k in ('classes', 'palette')}
    else:
        raise ValueError(f'no inferencer for {cfg.default_scope}')

    class LoadedInferencer(Inferencer):
        """Takes the model as it is."""

        def _init_model(self, cfg, weights, device='cpu') -> nn.Module:
            return model

    options = signature(LoadedInferencer).parameters
    quiet = dict(show_progress=False)
    if 'show_progress' not in options and 'kwargs' not in options:
        quiet = {}  # the original MMSegmentation always shows it
    return LoadedInferencer(cfg, device=device, **quiet)


def input_channels(cfg: Config) -> int:
    """Return the number of channels that the model of a config reads."""
    return cfg.model.get('backbone', {}).get('in_channels', 3)


class Predictor:
    """Results and drawings for pictures, one at a time.

    Args:
        cfg (Config): See :func:`build_inferencer`.
        model (nn.Module): See :func:`build_inferencer`.
        device (str): See :func:`build_inferencer`.
        score_thr (float): Detections below it are not drawn.
            Defaults to 0.5.
        classes (tuple[str], optional): Names of the classes, where the
            config has none.
    """

    def __init__(self, cfg: Config, model: nn.Module, device: str,
                 score_thr: float = 0.5,
                 classes: tuple[str, ...] | None = None) -> None:
        self.inferencer = build_inferencer(cfg, model, device)
        self.score_thr = score_thr
        self.classes = dataset_meta(cfg).get('classes') or classes
        self.gray = input_channels(cfg) == 1
        self.visualizer = self.inferencer.visualizer
        if cfg.default_scope == 'mmpretrain':
            from mmpretrain.visualization import UniversalVisualizer
            self.visualizer = UniversalVisualizer()
        use_our_drawing(self.visualizer)
        if cfg.default_scope == 'mmseg':
            self.visualizer.set_dataset_meta(
                **self.inferencer.model.dataset_meta)

    def predict(self, pixels: np.ndarray) -> BaseDataElement:
        """Return the framework's data sample for a picture.

        Args:
            pixels (np.ndarray): (H, W, 3) uint8, BGR.

        Raises:
            ValueError: If a side vanishes when the model's pipeline resizes
                the picture.
        """
        inputs = mmcv.bgr2gray(pixels) if self.gray else pixels
        try:
            result = self.inferencer(inputs, return_datasamples=True)
        except cv2.error as error:
            height, width = pixels.shape[:2]
            raise ValueError(
                f'{width} x {height} pixels cannot be resized for this '
                f'model, too long and thin? Crop it ({error.err})') from error
        if isinstance(result, dict):  # mmdet
            result = result['predictions']
        if isinstance(result, list):
            result, = result
        if 'pred_sem_seg' in result:  # floats, of a model of one channel
            result.pred_sem_seg.data = result.pred_sem_seg.data.long()
        return result.to('cpu')

    def describe(self, sample: BaseDataElement) -> dict:
        """Turn a data sample into JSON values; coordinates in pixels.

        Returns:
            dict: ``classes``, the five most likely with their scores;
            ``instances``, with score, box (x1, y1, x2, y2) and COCO mask;
            or ``classes`` with their share of the pixels, most first.
        """
        if 'pred_score' in sample:
            scores, labels = sample.pred_score.topk(
                min(5, sample.pred_score.numel()))
            return dict(classes=[
                dict(self._class(label), score=score)
                for score, label in zip(scores.tolist(), labels.tolist())
            ])
        if 'pred_instances' in sample:
            found = self.inferencer.pred2dict(sample)
            columns = dict(score=found['scores'], box=found['bboxes'])
            if 'masks' in found:
                columns['mask'] = found['masks']
            return dict(instances=[
                dict(self._class(label),
                     **{key: values[i] for key, values in columns.items()})
                for i, label in enumerate(found['labels'])
            ])
        labels = sample.pred_sem_seg.data
        counts = torch.bincount(labels.flatten())
        order = counts.argsort(descending=True)
        return dict(classes=[
            dict(self._class(label), share=count / labels.numel())
            for label, count in zip(order.tolist(), counts[order].tolist())
            if count
        ])

    def _class(self, label: int) -> dict:
        name = dict(name=self.classes[label]) if self.classes else {}
        return dict(label=label, **name)

    def draw(self, pixels: np.ndarray, sample: BaseDataElement,
             out_file: Path) -> None:
        """Draw a data sample on its picture; small pictures are enlarged."""
        image = mmcv.bgr2rgb(pixels)
        factor = shown_factor(image, MIN_SHOWN_SIDE)
        if factor > 1:
            image = mmcv.imrescale(image, factor, interpolation='bicubic')
        common = dict(data_sample=sample, draw_gt=False,
                      out_file=str(out_file), name=out_file.stem)
        if 'pred_score' in sample:
            self.visualizer.visualize_cls(
                image, classes=self.classes, **common)
            return
        common['data_sample'] = enlarge(sample, factor)
        if 'pred_instances' in sample:
            common['pred_score_thr'] = self.score_thr
        self.visualizer.add_datasample(image=image, **common)


def predict_pictures(predictor: Predictor, paths: list[Path], out_dir: Path,
                     max_side: int = 2048) -> Iterator[dict]:
    """Predict, draw and describe pictures, one after the other.

    Writes ``<name>.png``, a drawing, for each picture, and for segmentation
    ``<name>_labels.png``, the label of each pixel.

    Args:
        predictor (Predictor): The model.
        paths (list[Path]): Pictures.
        out_dir (Path): Folder of the drawings.
        max_side (int): See :func:`read_picture`.

    Yields:
        dict: For each picture its ``file``, and ``error`` if it could not be
        read or resized; else ``width`` and ``height``, the pixels that boxes,
        masks and labels refer to, ``scale``, their number over that in the
        file along a side, ``drawing``, ``labels`` for segmentation, and what
        :meth:`Predictor.describe` says.
    """
    used: set[str] = set()
    for path in paths:
        try:
            picture = read_picture(path, max_side)
            sample = predictor.predict(picture.pixels)
        except (OSError, ValueError) as error:
            yield dict(file=str(path), error=str(error))
            continue
        name = unused_name(path.stem, used)
        drawing = out_dir / f'{name}.png'
        predictor.draw(picture.pixels, sample, drawing)
        height, width = picture.pixels.shape[:2]
        result = dict(file=str(path), width=width, height=height,
                      scale=picture.scale, drawing=drawing.name)
        if 'pred_sem_seg' in sample:
            labels = sample.pred_sem_seg.data[0].numpy()
            result['labels'] = f'{name}_labels.png'
            kind = np.uint8 if labels.max() < 256 else np.uint16
            mmcv.imwrite(labels.astype(kind), str(out_dir / result['labels']))
        yield dict(result, **predictor.describe(sample))


def unused_name(stem: str, used: set[str]) -> str:
    """Make a name that no earlier picture or label map has."""
    name, number = stem, 1
    while {name, f'{name}_labels'} & used:
        number += 1
        name = f'{stem}_{number}'
    used.update((name, f'{name}_labels'))
    return name
