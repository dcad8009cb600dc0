"""Transforms that the frameworks lack."""

import cv2
from mmcv.transforms import Resize

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class ResizeCentred(Resize):
    """mmcv's Resize with label maps that stay in place.

    Its nearest neighbor takes the pixel at ``floor(factor * i)``: in front
    of the center of what it stands for, by up to half an output pixel. A
    label map shrunk by 2.5 so moves by one pixel against its image, which is
    a fifth of a thin stroke. This one takes the pixel at the center,
    ``floor(factor * (i + 0.5))``, as images are resized.

    It takes the arguments of mmcv's Resize.
    """

    def _resize_seg(self, results: dict) -> None:
        height, width = results['img_shape'][:2]
        for key in results.get('seg_fields', ('gt_seg_map', )):
            if results.get(key) is not None:
                results[key] = cv2.resize(
                    results[key], (width, height),
                    interpolation=cv2.INTER_NEAREST_EXACT)
