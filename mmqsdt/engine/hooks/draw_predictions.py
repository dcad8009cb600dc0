"""Draw predictions beside the truth, in all three frameworks."""

from math import ceil
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor

from ...data.classes import drawn_meta
from ...registry import HOOKS
from ..drawing import use_our_drawing

IMG_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff',
                  '.webp', '.JPEG', '.JPG', '.PNG')
# Longest side of a drawing, in pixels.
MAX_SHOWN_SIDE = 2048


@HOOKS.register_module()
class DrawPredictionsHook(Hook):
    """Draw test predictions beside the truth with the config's visualizer.

    Small images are first enlarged by a whole factor, so that boxes, masks
    and text are legible.

    Args:
        out_dir (str, optional): Folder of the pictures; None with show.
        number (int, optional): Pictures to draw; None draws all.
        show (bool): Open windows. Defaults to False.
        min_size (int): Least shorter side of a picture, in pixels.
            Defaults to 480.
        score_thr (float): Detections below it are not drawn.
            Defaults to 0.5.
    """

    def __init__(self,
                 out_dir: str | None,
                 number: int | None = None,
                 show: bool = False,
                 min_size: int = 480,
                 score_thr: float = 0.5) -> None:
        self.out_dir = Path(out_dir) if out_dir else None
        self.number = number
        self.show = show
        self.min_size = min_size
        self.score_thr = score_thr

    def before_test(self, runner) -> None:
        """Start counting."""
        self.drawn = 0
        runner.visualizer.dataset_meta = drawn_meta(
            runner.test_dataloader.dataset.metainfo)
        use_our_drawing(runner.visualizer)

    def after_test_iter(self, runner, batch_idx, data_batch=None,
                        outputs=None) -> None:
        """Draw the samples of a batch while some are still wanted."""
        for sample, inputs in zip(outputs, data_batch['inputs']):
            if self.number is not None and self.drawn >= self.number:
                return
            self.drawn += 1
            if sample.get('img_path', '').endswith(IMG_EXTENSIONS):
                image = mmcv.imread(sample.img_path, channel_order='rgb')
            else:  # CIFAR, event frames
                image = picture_of(inputs)
            self._draw(runner.visualizer, sample, image)

    def _draw(self, visualizer, sample: BaseDataElement,
              image: np.ndarray) -> None:
        factor = shown_factor(image, self.min_size)
        image = mmcv.imrescale(image, factor, interpolation='bicubic')
        out_file = None
        if self.out_dir:
            stem = Path(sample.get('img_path', '')).stem or 'image'
            out_file = str(self.out_dir / f'{self.drawn:04d}_{stem}.png')
        common = dict(
            data_sample=sample,
            show=self.show,
            out_file=out_file,
            name=Path(sample.get('img_path', '')).name)
        if hasattr(visualizer, 'visualize_cls'):  # mmpretrain
            visualizer.visualize_cls(
                image,
                classes=visualizer.dataset_meta.get('classes'),
                **common)
            return
        common['data_sample'] = enlarge(sample, factor)
        if 'pred_instances' in sample:
            common['pred_score_thr'] = self.score_thr
        visualizer.add_datasample(image=image, **common)


def shown_factor(image: np.ndarray, min_size: int) -> int:
    """Choose the factor that makes what is drawn on a picture legible.

    Args:
        image (np.ndarray): (H, W, ...).
        min_size (int): Least shorter side of the drawing, in pixels, unless
            its longer side would then exceed MAX_SHOWN_SIDE.

    Returns:
        int: Factor of both sides, 1 or more.
    """
    height, width = image.shape[:2]
    return max(1, min(ceil(min_size / min(height, width)),
                      MAX_SHOWN_SIDE // max(height, width)))


def picture_of(inputs: Tensor) -> np.ndarray:
    """Make a viewable image from a data set without image files.

    Args:
        inputs (Tensor): (3, H, W) RGB in 0..255, or event frames
            (T, 2, H, W), of any scale: drawn in red and blue, summed over T.

    Returns:
        np.ndarray: (H, W, 3), RGB, uint8.
    """
    if inputs.dim() == 4:
        negative, positive = inputs.float().sum(0).cpu()
        inputs = torch.stack([positive, 0 * positive, negative])
        inputs = inputs * (255 / inputs.max().clamp(min=1e-6))
    return inputs.byte().permute(1, 2, 0).cpu().numpy()


def enlarge(sample: BaseDataElement, factor: int) -> BaseDataElement:
    """Copy a sample with boxes, masks and label maps enlarged.

    Args:
        sample (BaseDataElement): Of mmdet or mmseg.
        factor (int): Whole factor of both sides.
    """
    sample = sample.clone().to('cpu')

    def pixels(x: Tensor) -> Tensor:  # (..., H, W) -> (..., f H, f W)
        return x.repeat_interleave(factor, -2).repeat_interleave(factor, -1)

    for name in ('gt_instances', 'pred_instances'):
        instances = sample.get(name)
        if instances is None:
            continue
        boxes = instances.bboxes
        instances.bboxes = getattr(boxes, 'tensor', boxes) * factor
        masks = instances.get('masks')
        if isinstance(masks, Tensor):
            instances.masks = pixels(masks)
        elif masks is not None:
            instances.masks = torch.from_numpy(
                masks.resize((masks.height * factor,
                              masks.width * factor)).to_ndarray()).bool()
    for name in ('gt_sem_seg', 'pred_sem_seg'):
        if sample.get(name) is not None:
            sample.set_field(
                PixelData(data=pixels(sample.get(name).data)), name)
    return sample
