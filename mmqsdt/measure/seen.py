"""The picture that a network saw, resized and padded as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..utils.preprocessor import normalization
from .record import listening


@contextmanager
def recorded_inputs(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what a backbone read when it ran last.

    Args:
        backbone (nn.Module): Whose first argument is a batch of pictures.

    Yields:
        list[Tensor]: That one batch, once it has run.
    """
    seen: list[Tensor] = []

    def hear(path: str, module: nn.Module, x: Tensor, output: object) -> None:
        seen[:] = [x]

    with listening({'backbone': backbone}, hear):
        yield seen


def picture_seen(model: nn.Module, inputs: Tensor) -> np.ndarray:
    """Turn a normalized picture back into one to look at.

    Maps of the network lie over all of it, padding included.

    Args:
        model (nn.Module): Whose ``data_preprocessor`` normalized it; without
            one the values are stretched from the least to the largest.
        inputs (Tensor): (1, 3, H, W).

    Returns:
        np.ndarray: (H, W, 3), RGB, uint8.

    Raises:
        ValueError: If it is anything but one picture in color.
    """
    if inputs.dim() != 4 or inputs.shape[:2] != (1, 3):
        raise ValueError('expected one picture of 3 channels, (1, 3, H, W), '
                         f'got {tuple(inputs.shape)}')
    x = inputs[0].detach().float()
    known = normalization(model)
    if known is None:
        x = (x - x.min()) / (x.max() - x.min()).clamp(min=1e-12) * 255
    elif known.mean is not None:
        mean, std = (x.new_tensor(v).view(-1, 1, 1)
                     for v in (known.mean, known.std))
        x = x * std + mean
    # Pictures are read as BGR; most models turn them into RGB.
    if known is not None and not known.swapped:
        x = x.flip(0)
    x = x.round().clamp(0, 255).to(torch.uint8)
    return x.permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
