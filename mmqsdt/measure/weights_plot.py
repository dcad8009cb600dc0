"""Draw the codes and step sizes of all layers."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from .codes import LayerCodes
from .style import ALARM, COLORS, save_picture, split_path, stage_of

LINE = COLORS[0]


def plot_weights(layers: list[LayerCodes], name: str,
                 stem: str | Path) -> list[Path]:
    """Draw a column for each layer: shares of codes, entropy, step sizes.

    Args:
        layers (list[LayerCodes]): Of :func:`weight_codes`.
        name (str): Of the model.
        stem (str | Path): Path of the files, without a suffix.
    """
    figure = Figure(
        figsize=(max(9, 0.17 * len(layers) + 2.5), 9.5),
        layout='constrained')
    codes, entropy, steps = figure.subplots(
        3, 1, sharex=True, height_ratios=(3, 1, 1.5))
    mesh = _draw_codes(codes, layers)
    figure.colorbar(mesh, ax=codes, pad=0.01, aspect=25,
                    format=matplotlib.ticker.PercentFormatter(1, 0),
                    label='share of the weights')
    _draw_entropy(entropy, layers)
    _draw_steps(steps, layers)
    steps.set_xticks(
        range(len(layers)),
        [split_path(x.layer)[1] for x in layers], rotation=90,
        fontsize='x-small')
    steps.set_xlim(-0.6, len(layers) - 0.4)
    _draw_places(codes, (codes, entropy, steps), layers)
    lost = sum(bool(x.unused) for x in layers)
    figure.suptitle(
        f'{name}: the integer codes of the weights, layer by layer\n' +
        (f'{lost} of {len(layers)} layers leave codes unused (crosses)'
         if lost else 'every layer uses all its codes'))
    return save_picture(figure, stem)


def _draw_codes(axes, layers: list[LayerCodes]):
    lowest = min(x.codes[0] for x in layers)
    highest = max(x.codes[-1] for x in layers)
    share = np.full((highest - lowest + 1, len(layers)), np.nan)
    for column, layer in enumerate(layers):
        share[np.array(layer.codes) - lowest, column] = np.array(
            layer.counts) / sum(layer.counts)
    # Square roots of shares, so that rare codes are visible.
    mesh = axes.imshow(
        share, origin='lower', aspect='auto', cmap='viridis',
        norm=PowerNorm(0.5, 0, np.nanmax(share)), interpolation='nearest',
        extent=(-0.5, len(layers) - 0.5, lowest - 0.5, highest + 0.5))
    unused = [(i, c) for i, x in enumerate(layers) for c in x.unused]
    if unused:
        axes.scatter(*zip(*unused), marker='x', s=14, linewidths=1.2,
                     color='white')
        axes.scatter(*zip(*unused), marker='x', s=10, linewidths=0.9,
                     color=ALARM)
    axes.set_ylabel('code')
    axes.locator_params(axis='y', integer=True, nbins=16)
    return mesh


def _draw_entropy(axes, layers: list[LayerCodes]) -> None:
    columns = range(len(layers))
    axes.bar(columns, [x.entropy for x in layers], color=LINE, width=0.7)
    axes.step(
        [-0.5, *columns, len(layers) - 0.5],
        [layers[0].bound, *(x.bound for x in layers), layers[-1].bound],
        where='mid', color='black', linestyle=':', linewidth=1)
    axes.set_ylabel('entropy\nof the codes,\nbits')
    axes.set_ylim(0, 1.12 * max(x.bound for x in layers))
    axes.text(0, layers[0].bound, 'bits of a weight ', va='bottom',
              fontsize='small')
    axes.spines[['top', 'right']].set_visible(False)


def _draw_steps(axes, layers: list[LayerCodes]) -> None:
    columns = range(len(layers))
    steps = [np.array(x.steps) for x in layers]
    axes.vlines(columns, [s.min() for s in steps], [s.max() for s in steps],
                color=LINE, linewidth=2.5, alpha=0.35,
                label='smallest to largest channel')
    axes.vlines(columns, [np.quantile(s, 0.25) for s in steps],
                [np.quantile(s, 0.75) for s in steps], color=LINE,
                linewidth=4.5, label='middle half of the channels')
    axes.plot(columns, [np.median(s) for s in steps], 'o', color='black',
              markersize=3, label='median')
    axes.set_yscale('log')
    axes.set_ylabel('step size')
    axes.legend(frameon=False, fontsize='small', ncols=3, loc='lower left',
                bbox_to_anchor=(0, 0.98), borderaxespad=0)
    axes.spines[['top', 'right']].set_visible(False)


def _draw_places(top, panels, layers: list[LayerCodes]) -> None:
    """Draw lines between stages and blocks, and names of stages above."""
    stages = [stage_of(x.layer) for x in layers]
    places = [split_path(x.layer)[0] for x in layers]
    for i in range(1, len(layers)):
        new_stage = stages[i] != stages[i - 1]
        if new_stage or places[i] != places[i - 1]:
            for axes in panels:
                axes.axvline(
                    i - 0.5, color='black' if new_stage else '#999999',
                    linewidth=1.4 if new_stage else 0.6)
    for stage in dict.fromkeys(stages):
        columns = [i for i, s in enumerate(stages) if s == stage]
        narrow = len(columns) < 4
        top.text(
            np.mean(columns), 1.01, stage, va='bottom',
            ha='left' if narrow else 'center', rotation=30 * narrow,
            transform=top.get_xaxis_transform())
