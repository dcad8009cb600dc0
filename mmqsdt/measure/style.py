"""What all figures share: colors, names of layers, files, overlays."""

import io
import json
import re
from pathlib import Path

import matplotlib
import mmcv
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..checkpoints.atomic import write_atomically, write_text

# Okabe and Ito's, which can be told apart with any kind of color vision.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9',
          '#000000', '#999999')
ALARM = '#d55e00'
MAP = 'inferno'
# What a neuron of a block emits, in words shorter than its path.
WORDS = {
    'attn': 'attention in', 'attn.q': 'q', 'attn.k': 'k', 'attn.v': 'v',
    'attn.attn': 'q (k$^T$v)', 'sep_conv.expand': 'sep. conv in',
    'sep_conv': 'sep. conv mid'
}


def split_path(path: str) -> tuple[str, str]:
    """Say in few words where a layer is, and what it is there.

    Args:
        path (str): Of a module in a model.

    Example::

        >>> split_path('backbone.stages.3.blocks.1.attn.q_neuron')
        ('stage 3, block 1', 'q')
        >>> split_path('neck.lateral_convs.0.neuron')
        ('neck', 'lateral_convs.0')
    """
    path, space, number = path.removeprefix('backbone.').partition(' ')
    found = re.match(r'stages\.(\d+)\.(?:blocks\.(\d+)\.)?(.*)', path)
    if found:
        stage, block, rest = found.groups()
        # A stage begins with its downsampling unit.
        place = f'stage {stage}, block {block or 0}'
    else:
        place, _, rest = path.partition('.')
    rest = re.sub(r'(^|[._])neuron$', '', rest) or 'in'
    return place, WORDS.get(rest, rest) + space + number


def stage_of(path: str) -> str:
    """Return the coarser part of :func:`split_path`: 'stage 3', 'neck'."""
    return split_path(path)[0].partition(',')[0]


def save_picture(figure: Figure, stem: str | Path) -> list[Path]:
    """Write a figure as .png and as .svg.

    Args:
        figure (Figure): With a layout.
        stem (str | Path): Path without a suffix.

    Returns:
        list[Path]: Both files.
    """
    files = [Path(f'{stem}.png'), Path(f'{stem}.svg')]
    write_figure(figure, files[0], dpi=100)
    figure.set_layout_engine('none')  # keep the layout of the first file
    # Equal figures give equal files.
    with matplotlib.rc_context({'svg.hashsalt': 'mmqsdt'}):
        write_figure(figure, files[1], dpi=100, metadata=dict(Date=None))
    return files


def write_figure(figure: Figure, path: str | Path, **options) -> None:
    """Save a figure in the format of the suffix, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix[1:], **options)
    write_atomically(path, content.getbuffer())


def write_json(content: dict, path: str | Path) -> Path:
    """Write plain data beside a picture."""
    write_text(path, json.dumps(content, indent=1) + '\n')
    return Path(path)


def thumbnail(picture: np.ndarray, side: int = 320) -> np.ndarray:
    """Shrink a picture to what a panel shows.

    Args:
        picture (np.ndarray): (H, W, 3), uint8.
        side (int): Longer side at most, in pixels. Defaults to 320.
    """
    if max(picture.shape[:2]) <= side:
        return picture
    return mmcv.imrescale(picture, (side, side), interpolation='area')


def bare(axes, label: str = '') -> None:
    """Remove ticks and frame.

    Args:
        axes (Axes): Of a picture.
        label (str): Written on its left, about a line of pictures.
            Defaults to ''.
    """
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    if label:
        axes.set_yticks([])
        axes.set_ylabel(label, rotation=0, ha='right', va='center',
                        fontsize='medium')
    else:
        axes.yaxis.set_visible(False)


def draw_over(axes, picture: np.ndarray, values: np.ndarray,
              norm: Normalize, cmap: str = MAP, share: float = 0.3) -> None:
    """Draw a map in color, stretched over a picture in gray.

    Args:
        axes (Axes): Where.
        picture (np.ndarray): (H, W, 3) uint8.
        values (np.ndarray): (h, w).
        norm (Normalize): From values to 0..1, for the colors.
        cmap (str): Name of the colors. Defaults to MAP.
        share (float): Share of the picture in the mixture. Defaults to 0.3.
    """
    height, width = picture.shape[:2]
    gray = picture @ np.array([0.299, 0.587, 0.114]) / 255
    # Repeat cells without smoothing, to show exactly what was counted.
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    color = matplotlib.colormaps[cmap](norm(values))[rows][:, columns, :3]
    mixed = (1 - share) * color + share * gray[..., None]
    axes.imshow((mixed * 255).round().astype(np.uint8))
