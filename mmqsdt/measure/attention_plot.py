"""Draw what attention queries read, over the picture."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from .attention_rows import AttentionLayer, over_average
from .style import bare, draw_over, save_picture, split_path, thumbnail

# Its two halves can be told apart with any kind of color vision.
READ = 'PuOr_r'
# From half the average token's weight to twice that weight.
RANGE = LogNorm(1 / 2, 2, clip=True)


def plot_attention(picture: np.ndarray, layers: list[AttentionLayer],
                   places: list[tuple[float, float]], name: str,
                   stem: str | Path) -> list[Path]:
    """Draw a line for each layer: what queries read, the mean over heads.

    Args:
        picture (np.ndarray): What the network saw, (H, W, 3), uint8.
        layers (list[AttentionLayer]): Lines of the picture.
        places (list): Queries, (x, y) in 0..1 of width and height.
        name (str): Of the picture.
        stem (str | Path): Path of the files, without a suffix.
    """
    lines = {
        split_path(x.layer)[0]: _rows(x, places).mean(0) for x in layers
    }
    return _plot(picture, lines, places, f'{name}: which places a query reads '
                 'in attention, mean over heads', stem)


def plot_heads(picture: np.ndarray, layer: AttentionLayer,
               places: list[tuple[float, float]], name: str,
               stem: str | Path) -> list[Path]:
    """Draw a line for each head of one layer; see :func:`plot_attention`."""
    heads = {f'head {i}': x for i, x in enumerate(_rows(layer, places), 1)}
    return _plot(picture, heads, places, f'{name}: which places a query reads '
                 f'in attention, heads of {split_path(layer.layer)[0]}', stem)


def _rows(layer: AttentionLayer, places: list) -> Tensor:
    """Return the mean over all queries, then each: (heads, 1 + n, H, W)."""
    return torch.cat([layer.mean_row()[:, None], layer.rows(places)], 1)


def _plot(picture: np.ndarray, lines: dict[str, Tensor], places: list,
          title: str, stem: str | Path) -> list[Path]:
    picture = thumbnail(picture)
    side = picture.shape[0] / picture.shape[1]
    figure = Figure(
        figsize=(1.9 * (len(places) + 2) + 1.2,
                 (1.9 * side + 0.1) * len(lines) + 1.9),
        layout='constrained')
    grid = figure.subplots(len(lines), len(places) + 2, squeeze=False)
    shown = None
    for axes, (label, rows) in zip(grid, lines.items()):
        bare(axes[0], label.replace(', ', '\n'))
        if rows.shape[1:] != shown:  # tokens of another size than above
            shown = rows.shape[1:]
            axes[0].imshow(picture)
            for i, place in enumerate(places, 1):
                _mark(axes[0], picture, place, shown, i)
        for i, cell in enumerate(axes[1:]):
            _draw_row(cell, picture, rows[i])
            if i:
                _mark(cell, picture, places[i - 1], shown, i)
    titles = ['places that ask', 'all places',
              *(f'place {i + 1}' for i in range(len(places)))]
    for axes, text in zip(grid[0], titles):
        axes.set_title(text, fontsize='medium')
    bar = figure.colorbar(
        ScalarMappable(RANGE, READ), ax=grid, location='bottom', shrink=0.6,
        aspect=40, pad=0.02, ticks=[1 / 2, 1, 2], extend='both',
        label='q$\\cdot$k, the weight of a place in the row of '
        'q k$^T$ that q (k$^T$v) stands for')
    bar.ax.minorticks_off()
    bar.set_ticklabels(['half of average', 'read as much as average',
                        'twice the average'])
    figure.suptitle(title, fontweight='bold')
    return save_picture(figure, stem)


def _mark(axes, picture: np.ndarray, place: tuple[float, float],
          grid: tuple[int, int], number: int) -> None:
    """Draw a frame around a query's token, with its number."""
    (height, width), (h, w) = picture.shape[:2], grid
    column, row = min(int(place[0] * w), w - 1), min(int(place[1] * h), h - 1)
    left, top = column * width / w, row * height / h
    for line, shade in ((4, 'black'), (1.8, 'white')):
        axes.add_patch(
            Rectangle((left, top), width / w, height / h, fill=False,
                      linewidth=line, edgecolor=shade))
    axes.text(
        left + width / w / 2, top + height / h / 2, str(number),
        color='white', ha='center', va='center_baseline', fontweight='bold',
        path_effects=[withStroke(linewidth=2.5, foreground='black')])


def _draw_row(axes, picture: np.ndarray, row: Tensor) -> None:
    faded = 128 + picture // 2  # else dark pixels would look like values
    draw_over(axes, faded, over_average(row).clamp(min=1e-6).numpy(),
              RANGE, READ, 0.4)
    bare(axes)
    if not row.any():
        axes.text(0.5, 0.5, 'silent:\nreads nothing', color='white',
                  ha='center', va='center', transform=axes.transAxes,
                  path_effects=[withStroke(linewidth=3, foreground='black')])
