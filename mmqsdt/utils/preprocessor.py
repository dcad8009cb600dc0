"""What a model's data preprocessor does to images."""

from dataclasses import dataclass

from torch import Tensor, nn

# Attributes of the frameworks' preprocessors that swap BGR and RGB.
SWAPS = ('to_rgb', 'channel_conversion', '_channel_conversion')


@dataclass(frozen=True)
class Normalization:
    """How images are normalized: (x - mean) / std, then channels swapped.

    Attributes:
        mean (tuple[float], optional): Of each channel; None if images are
            not normalized.
        std (tuple[float], optional): Of each channel; None likewise.
        swapped (bool): Whether the order of three channels is reversed.
    """
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    swapped: bool


def normalization(model: nn.Module) -> Normalization | None:
    """Read it from a model's data_preprocessor; None if it has none."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    if preprocessor is None:
        return None
    swapped = any(getattr(preprocessor, name, False) for name in SWAPS)
    mean = getattr(preprocessor, 'mean', None)
    if not isinstance(mean, Tensor):
        return Normalization(None, None, swapped)
    return Normalization(tuple(mean.flatten().tolist()),
                         tuple(preprocessor.std.flatten().tolist()), swapped)
