"""Draw gradients, firing and saturation by layer."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..utils.text import part_of
from .gradients import SOUND_RATIO, GradientReport
from .style import ALARM, COLORS, save_picture

ANN_COLOR, MODEL_COLOR = '#8c8c8c', COLORS[0]


def plot_gradients(report: GradientReport, ann: GradientReport, name: str,
                   stem: str | Path) -> list[Path]:
    """Draw gradients beside the counterpart's, and what the neurons do.

    Args:
        report (GradientReport): Of the spiking model.
        ann (GradientReport): Of its ANN counterpart.
        name (str): Of the config.
        stem (str | Path): Path of the files, without a suffix.

    Returns:
        list[Path]: The files, .png and .svg.
    """
    figure = Figure(figsize=(12, 9), layout='constrained')
    layers, neurons = figure.subplots(2, 1)
    _plot_layers(layers, report, ann)
    _plot_neurons(neurons, report)
    figure.suptitle(f'{name}: one training step from random weights')
    return save_picture(figure, stem)


def _plot_layers(axes, report: GradientReport, ann: GradientReport) -> None:
    names = list(report.layers)
    x = np.arange(len(names))
    own = np.array([report.layers[n] for n in names])
    other = np.array([ann.layers.get(n, np.nan) for n in names])
    axes.fill_between(
        x, other / SOUND_RATIO, other * SOUND_RATIO, color=ANN_COLOR,
        alpha=0.2, label=f'within a factor of {SOUND_RATIO:g}')
    axes.plot(x, other, color=ANN_COLOR, label='ANN counterpart')
    axes.plot(x, own, color=MODEL_COLOR, marker='.', label='this model')
    far = own > SOUND_RATIO * other
    axes.plot(x[far], own[far], 'o', color=ALARM, label='larger than that')
    axes.set(
        yscale='log', ylabel='norm of the gradient of the weights',
        title='Gradients, layer by layer from the image to the loss')
    axes.legend(ncols=4, fontsize='small')
    _mark_parts(axes, names)


def _plot_neurons(axes, report: GradientReport) -> None:
    names = list(report.neurons)
    states = list(report.neurons.values())
    x = np.arange(len(names))
    below = np.array([s.below for s in states])
    above = np.array([s.above for s in states])
    axes.bar(x, below, color='#d9d9d9', width=1.,
             label='below the window: silent')
    axes.bar(x, 1 - below - above, bottom=below, color=COLORS[2], alpha=0.6,
             width=1., label='in the window: the gradient passes')
    axes.bar(x, above, bottom=1 - above, color=ALARM, width=1.,
             label='above the window: saturated')
    axes.plot(x, [s.rate for s in states], 'k.', label='firing rate')
    axes.set(ylim=(0, 1), ylabel='share of potentials',
             title='Potentials and the window of the neurons')
    axes.legend(ncols=4, fontsize='small', loc='lower center')
    _mark_parts(axes, names)


def _mark_parts(axes, names: list[str]) -> None:
    """Name stages, neck and heads below the axis, with lines between."""
    parts = [part_of(n) for n in names]
    starts = [i for i, part in enumerate(parts)
              if not i or part != parts[i - 1]]
    ends = [*starts[1:], len(names)]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color='#bbbbbb', linewidth=0.8)
    axes.set_xticks(
        [(start + end - 1) / 2 for start, end in zip(starts, ends)],
        [parts[start].replace('roi_head.', '').replace(
            'backbone.stages.', 'stage ') for start in starts],
        rotation=20, ha='right')
    axes.set_xlim(-0.5, max(len(names), 1) - 0.5)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(axis='x', length=0)
