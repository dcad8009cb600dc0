"""One line of Python from a name to predictions."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.structures import BaseDataElement
from PIL import Image

from ..checkpoints.fit import build_trained
from ..checkpoints.packing import is_packed
from ..checkpoints.read import reading_once
from ..checkpoints.resume import find_checkpoint
from ..data.questions import ask
from ..data.saved import saved_classes, saved_meta
from ..deploy import to_form
from ..utils.configs import find_config
from ..utils.frameworks import check_framework, know_forks
from ..utils.shipped import shipped_weights
from .predict import Predictor, pil_pixels, read_picture
from .quiet import quiet

Picture = str | Path | np.ndarray | Image.Image


def load(config: str | Path | Config,
         checkpoint: str | Path | None = None,
         form: str = 'fast',
         encoding: str = 'thermometer',
         device: str | None = None) -> 'Model':
    """Load a trained model that predicts on pictures.

    Args:
        config (str | Path | Config): Path or name of a config.
        checkpoint (str | Path, optional): Checkpoint or packed weights, or
            a work dir (its latest). Default: the weights shipped under the
            name of the config.
        form (str): 'fast', integers on integer kernels of the CPU;
            'float', as it was trained; 'integer' or 'spikes'. All predict
            the same. Defaults to 'fast'.
        encoding (str): How form 'spikes' carries a count; see
            :func:`mmqsdt.deploy.to_spikes`. Defaults to 'thermometer'.
        device (str, optional): Such as 'cuda:0'. Default: the CPU for
            'fast', else the best there is.

    Raises:
        FileNotFoundError: If config or checkpoint is not there, or no
            weights ship for the config.
        ImportError: If the framework of the config is not installed.
        ValueError: If config and checkpoint do not agree, or the model has
            no such form.

    Example::

        >>> model = mmqsdt.load('det/qsdt_maskrcnn_digits')
        >>> model('scene.jpg')['names']
        ['3', '7']
    """
    name = config.filename if isinstance(config, Config) else str(config)
    if checkpoint is None:
        checkpoint = shipped_weights(name).path
    checkpoint = find_checkpoint(str(checkpoint))
    know_forks()
    cfg = config if isinstance(config, Config) else Config.fromfile(
        find_config(name))
    with quiet():
        predictor = build_predictor(cfg, checkpoint, form, encoding, device)
    return Model(cfg, predictor)


def build_predictor(cfg: Config,
                    checkpoint: str,
                    form: str = 'float',
                    encoding: str = 'thermometer',
                    device: str | None = None,
                    score_thr: float = 0.5) -> Predictor:
    """Load a trained model into its framework's inferencer.

    Args:
        cfg (Config): Of the model.
        checkpoint (str): A file; see
            :func:`mmqsdt.checkpoints.find_checkpoint`.
        form (str): See :func:`load`.
        encoding (str): See :func:`load`.
        device (str, optional): See :func:`load`.
        score_thr (float): See :class:`Predictor`. Defaults to 0.5.

    Raises:
        ImportError: If the framework of the config is not installed.
        ValueError: As :func:`load` does.
    """
    check_framework(cfg)
    with reading_once():
        ask(cfg, ('test', ), checkpoint)
        model = build_trained(cfg, checkpoint)
        saved = None if '://' in checkpoint or is_packed(checkpoint) else \
            saved_classes(saved_meta(checkpoint))
    model = to_form(model, form, encoding)
    if device is None:
        device = 'cpu' if form == 'fast' else get_device()
    return Predictor(cfg, model, device, score_thr, saved)


class Model:
    """Predicts on paths, arrays and PIL images; see :func:`load`.

    Args:
        cfg (Config): Of the model.
        predictor (Predictor): The model.

    Attributes:
        cfg (Config): As given.
        network (nn.Module): The framework's model, in the form it is in.
        classes (tuple[str] | None): Names in the order of the labels.
    """

    def __init__(self, cfg: Config, predictor: Predictor) -> None:
        self.cfg = cfg
        self.predictor = predictor
        self.network = predictor.inferencer.model
        self.classes = predictor.classes and tuple(predictor.classes)

    def __call__(self, pictures: Picture | Sequence[Picture]
                 ) -> dict | list[dict]:
        """Predict.

        Args:
            pictures (Picture | Sequence[Picture]): A path, a PIL image, an
                array (H, W, 3) in RGB or (H, W) in gray, uint8; or a list
                of them.

        Returns:
            dict | list[dict]: Of NumPy arrays, for each picture.

            - A classifier: ``scores`` (classes, ), and of the best
              ``label``, ``score`` and ``name``.
            - A detector: ``boxes`` (N, 4), x1, y1, x2, y2 in pixels,
              ``scores`` (N, ), the highest first, ``labels`` (N, ),
              ``names``, a list, and ``masks`` (N, H, W), bool, if it has
              them. All that it finds; what is worth showing is yours to
              say: ``scores > 0.5``.
            - A segmenter: ``labels`` (H, W), and ``names``, label ->
              name, of those that are there.

        Raises:
            FileNotFoundError: If there is no such picture.
            ValueError: If a picture cannot be read.
        """
        if isinstance(pictures, (list, tuple)):
            return [self(each) for each in pictures]
        return self._result(self.predictor.predict(read_any(pictures)))

    def draw(self, picture: Picture, out_file: str | Path) -> None:
        """Predict, and write the prediction on its picture, as PNG.

        Args:
            picture (Picture): See :meth:`__call__`.
            out_file (str | Path): Ends in .png or .jpg.
        """
        pixels = read_any(picture)
        self.predictor.draw(pixels, self.predictor.predict(pixels),
                            Path(out_file))

    def __repr__(self) -> str:
        return (f'{type(self).__name__}({type(self.network).__name__}, '
                f'{len(self.classes or ())} classes)')

    def _result(self, sample: BaseDataElement) -> dict:
        if 'pred_score' in sample:
            scores = sample.pred_score.numpy()
            best = int(scores.argmax())
            return dict(label=best, name=self._name(best),
                        score=float(scores[best]), scores=scores)
        if 'pred_instances' in sample:
            found = sample.pred_instances
            order = found.scores.argsort(descending=True, stable=True)
            found = found[order]
            labels = found.labels.numpy()
            result = dict(boxes=found.bboxes.numpy(),
                          scores=found.scores.numpy(), labels=labels,
                          names=[self._name(i) for i in labels.tolist()])
            if 'masks' in found:
                result['masks'] = found.masks.numpy().astype(bool)
            return result
        labels = sample.pred_sem_seg.data[0].numpy()
        return dict(labels=labels, names={
            i: self._name(i) for i in np.unique(labels).tolist()})

    def _name(self, label: int) -> str:
        return self.classes[label] if self.classes else str(label)


def read_any(picture: Picture) -> np.ndarray:
    """Return the pixels of a picture, (H, W, 3) uint8, BGR.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or is an array of another kind.
    """
    if isinstance(picture, (str, Path)):
        if not Path(picture).is_file():
            raise FileNotFoundError(f'no picture at {picture}')
        return read_picture(Path(picture), max_side=10**6).pixels
    if isinstance(picture, Image.Image):
        return pil_pixels(picture)
    if isinstance(picture, torch.Tensor):
        raise ValueError('expected a path, a PIL image or a NumPy array, got '
                         'a tensor; picture.permute(1, 2, 0).numpy() makes '
                         'an array of (3, H, W)')
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or \
            pixels.ndim == 3 and pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(
            'expected an array (H, W, 3) in RGB or (H, W), uint8 from 0 to '
            f'255, got shape {pixels.shape}, {pixels.dtype}')
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, -1)
    return mmcv.rgb2bgr(np.ascontiguousarray(pixels))
