"""Draw the spikes of a picture: slots, counts and firing rates."""

from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure

from .spike_maps import SpikeMap
from .style import (
    COLORS,
    MAP,
    bare,
    draw_over,
    save_picture,
    split_path,
    stage_of,
    thumbnail,
)

SPIKE = ListedColormap(['#e8e8e8', '#000000'])
MAX_COLUMNS = 9


def plot_slots(picture: np.ndarray, maps: list[SpikeMap], encoding: str,
               name: str, stem: str | Path) -> list[Path]:
    """Draw a line for each neuron: firing rates, counts, and their slots.

    Counts and slots are those of the channel whose counts vary most.

    Args:
        picture (np.ndarray): What the network saw, (H, W, 3), uint8.
        maps (list[SpikeMap]): That lie over it.
        encoding (str): How slots carry the counts.
        name (str): Of the picture.
        stem (str | Path): Path of the files, without a suffix.
    """
    picture = thumbnail(picture)
    slots = [m.slots(encoding) for m in maps]  # (slots, T, C, H, W)
    times = max(s.shape[1] for s in slots)
    columns = max(s.shape[0] * s.shape[1] for s in slots) + 2
    width = 1.75
    height = width * picture.shape[0] / picture.shape[1] + 0.3
    figure = Figure(
        figsize=(width * columns + 1.4, height * len(maps) + 1.7),
        layout='constrained')
    grid = figure.add_gridspec(
        len(maps) + 1, columns, height_ratios=[height] * len(maps) + [0.1])
    rates = Normalize(0, max(float(m.rate_map().max()) for m in maps) or 1)
    most = max(m.levels * len(m.counts) for m in maps)
    for i, (m, binary) in enumerate(zip(maps, slots)):
        channel = m.richest_channel()
        number = binary.shape[0] * binary.shape[1]
        line = [figure.add_subplot(grid[i, j]) for j in range(number + 2)]
        draw_over(line[0], picture, m.rate_map().numpy(), rates)
        bare(line[0], _label(m))
        line[0].set_title(f'firing rate {m.rate:.2f}', fontsize='medium')
        total = m.counts[:, channel].long().sum(0).numpy()
        line[1].imshow(
            total, cmap=_shades(most), norm=_steps(most),
            interpolation='nearest',
            extent=(0, picture.shape[1], picture.shape[0], 0))
        bare(line[1])
        line[1].set_title(f'channel {channel}', fontsize='medium')
        _draw_slots(line[2:], m, binary[:, :, channel].numpy(), encoding,
                    picture.shape)
    scales = [figure.add_subplot(grid[-1, j]) for j in (0, 1)]
    figure.colorbar(
        ScalarMappable(rates, MAP), cax=scales[0], orientation='horizontal',
        label='all channels:\nfiring rate')
    figure.colorbar(
        ScalarMappable(_steps(most), _shades(most)), cax=scales[1],
        orientation='horizontal', label='one channel:\nnumber of spikes',
        ticks=range(0, most + 1, ceil(most / 5)))
    over_time = f' at {times} time steps' if times > 1 else ''
    weighted = '' if encoding == 'thermometer' else ', by their weights,'
    figure.suptitle(
        f'{name}: what each layer passes on.\nThe binary spikes of a '
        f'channel (black){over_time}{weighted} add up\nto the number of '
        'spikes that the next layer reads')
    return save_picture(figure, stem)


def _label(m: SpikeMap) -> str:
    place, layer = split_path(m.layer)
    channels, h, w = m.counts.shape[1:]
    return f'{place}\n{layer}\n{channels} channels\n{h} x {w}'


def _shades(most: int) -> ListedColormap:
    shades = matplotlib.colormaps['viridis_r'](np.linspace(0.05, 1, most))
    return ListedColormap(['#e8e8e8', *shades])


def _steps(most: int) -> BoundaryNorm:
    return BoundaryNorm(np.arange(most + 2) - 0.5, most + 1)


def _draw_slots(line, m: SpikeMap, binary: np.ndarray, encoding: str,
                size: tuple) -> None:
    slots = len(binary)
    weights = m.slot_weights(encoding)
    for i, axes in enumerate(line):
        t, d = divmod(i, slots)
        axes.imshow(
            binary[d, t], cmap=SPIKE, vmin=0, vmax=1,
            interpolation='nearest', extent=(0, size[1], size[0], 0))
        bare(axes)
        title = 'spike' if encoding == 'thermometer' else 'slot'
        title += f' {d + 1}' if slots > 1 else ''
        title += f' of weight {weights[d]}' if weights[d] > 1 else ''
        title += f', t = {t + 1}' if binary.shape[1] > 1 else ''
        axes.set_title(title, fontsize='medium')
        axes.text(
            -0.04, 0.5, '+' if i else '=', transform=axes.transAxes,
            ha='right', va='center', fontsize='x-large', fontweight='bold')


def plot_rates(picture: np.ndarray, maps: list[SpikeMap], name: str,
               stem: str | Path) -> list[Path]:
    """Draw the firing rate of every neuron: over the picture, and as bars.

    Args:
        picture (np.ndarray): What the network saw, (H, W, 3), uint8.
        maps (list[SpikeMap]): Of all neurons.
        name (str): Of the picture.
        stem (str | Path): Path of the files, without a suffix.
    """
    picture = thumbnail(picture)
    lines = _lines([m for m in maps if m.over_picture])
    columns = max(len(line) for _, line in lines)
    side = picture.shape[0] / picture.shape[1]
    height, width = 1.25 * side + 0.25, 1.25
    figure = Figure(
        figsize=(max(width * columns + 1.6, 9, 0.14 * len(maps) + 4),
                 height * len(lines) + 4.6),
        layout='constrained')
    top, bottom = figure.subfigures(
        2, 1, height_ratios=(3.9, height * len(lines) + 0.7))
    image, bars = top.subplots(1, 2, width_ratios=(1, 3.6))
    image.imshow(picture)
    image.set_title('what the network saw', fontsize='medium', loc='left')
    bare(image)
    _draw_bars(bars, maps)
    grid = bottom.add_gridspec(len(lines), columns)
    rates = [m.rate_map().numpy() for _, line in lines for m in line]
    # A few bright pixels must not darken all others.
    norm = Normalize(0, max(float(np.quantile(np.concatenate(
        [r.ravel() for r in rates]), 0.995)), 1e-6), clip=True)
    for i, (place, line) in enumerate(lines):
        for j, m in enumerate(line):
            axes = bottom.add_subplot(grid[i, j])
            draw_over(axes, picture, m.rate_map().numpy(), norm)
            bare(axes, '' if j else place.replace(', ', '\n'))
            axes.set_title(split_path(m.layer)[1], fontsize='small')
    bottom.colorbar(
        ScalarMappable(norm, MAP), ax=bottom.axes,
        location='bottom', shrink=0.5, aspect=50, pad=0.01, extend='max',
        label='firing rate: mean spike count of all channels / largest count')
    figure.suptitle(f'{name}: where each layer fires', fontweight='bold')
    return save_picture(figure, stem)


def _lines(maps: list[SpikeMap]) -> list[tuple[str, list[SpikeMap]]]:
    """Split maps into lines, at least one for each block, neck and head."""
    places: dict[str, list[SpikeMap]] = {}
    for m in maps:
        places.setdefault(split_path(m.layer)[0], []).append(m)
    return [(place, found[i:i + MAX_COLUMNS])
            for place, found in places.items()
            for i in range(0, len(found), MAX_COLUMNS)]


def bar_name(path: str) -> str:
    """Name a neuron layer in short: '3.0 q', 'neck lateral_convs.0'."""
    place, layer = split_path(path)
    place = place.replace('stage ', '').replace(', block ', '.')
    return f'{place} {layer}'


def _draw_bars(axes, maps: list[SpikeMap]) -> None:
    """Draw every neuron's rate, in the order of the network."""
    stages = list(dict.fromkeys(stage_of(m.layer) for m in maps))
    for i, stage in enumerate(stages):
        found = [n for n, m in enumerate(maps) if stage_of(m.layer) == stage]
        color = COLORS[i % len(COLORS)]
        axes.bar(found, [maps[n].rate for n in found], color=color, width=0.8,
                 label=stage)
    axes.set_title('every neuron layer, in the order of the network',
                   fontsize='medium', loc='left')
    axes.set_ylim(bottom=0)
    axes.set_ylabel('firing rate: mean count / largest')
    axes.set_xticks(range(len(maps)), [bar_name(m.layer) for m in maps],
                    rotation=90, fontsize=min(8, max(3, 480 / len(maps))))
    axes.tick_params(axis='x', length=0)
    axes.margins(x=0.01)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(
        loc='lower right', bbox_to_anchor=(1, 1), frameon=False,
        ncols=min(len(stages), 8), fontsize='small', handlelength=1,
        columnspacing=1.2)
