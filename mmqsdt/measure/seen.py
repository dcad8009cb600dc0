"""The picture that a network saw, resized and padded as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def recorded_inputs(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what a backbone reads, the last time it runs.

    Args:
        backbone (nn.Module): Whose first argument is a batch of pictures.

    Yields:
        list[Tensor]: That one batch, as soon as it came.
    """
    seen: list[Tensor] = []

    def keep(module, args):
        seen[:] = args[:1]

    handle = backbone.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def picture_seen(model: nn.Module, inputs: Tensor) -> np.ndarray:
    """Turn a normalized picture back into one to look at.

    Maps of the network lie over all of it, padding included.

    Args:
        model (nn.Module): Whose ``data_preprocessor`` normalised it. Of one
            without, the values are stretched from the least to the largest.
        inputs (Tensor): (1, 3, H, W).

    Returns:
        np.ndarray: (H, W, 3), RGB, uint8.

    Raises:
        ValueError: If it is anything but one picture in colour.
    """
    if inputs.dim() != 4 or inputs.shape[:2] != (1, 3):
        raise ValueError('needed is one picture of 3 channels, the network '
                         f'read {tuple(inputs.shape)}')
    x = inputs[0].detach().float()
    preprocessor = getattr(model, 'data_preprocessor', None)
    if preprocessor is None:
        x = (x - x.min()) / (x.max() - x.min()).clamp(min=1e-12) * 255
    elif getattr(preprocessor, '_enable_normalize', False):
        x = x * preprocessor.std.to(x) + preprocessor.mean.to(x)
    # Pictures are read as BGR; most models turn them into RGB.
    is_rgb = preprocessor is None or getattr(
        preprocessor, 'to_rgb', False) or getattr(
            preprocessor, '_channel_conversion', False)
    x = x if is_rgb else x.flip(0)
    return x.round().clamp(0, 255).to(torch.uint8).permute(1, 2,
                                                           0).cpu().numpy()
