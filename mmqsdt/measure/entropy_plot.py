"""Draw entropy reports of models side by side."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .entropy import BINS, HIGHEST, LOWEST, EntropyReport, TensorDistribution
from .style import write_figure

LINES = ('#8c8c8c', '#d1495b', '#00798c', '#edae49', '#5b3758', '#66a182')
SILENT = '#c9c9c9'


def plot_entropy(reports: dict[str, EntropyReport],
                 path: str | Path) -> None:
    """Draw distributions over all layers, then entropy layer by layer.

    Each model has two columns: the potentials of q, k, v, colored by the
    spike count that they lead to, and the shares of these counts.

    Args:
        reports (dict): By name of the model, of :func:`spike_entropy`.
        path (str | Path): The picture, .png or .svg.
    """
    figure = Figure(
        figsize=(max(8, 4.4 * len(reports)), 11), layout='constrained')
    top, bottom = figure.subfigures(2, 1, height_ratios=(3, 1.25))
    axes = top.subplots(
        3, 2 * len(reports), squeeze=False,
        width_ratios=(2, 1.1) * len(reports))
    for i, (name, report) in enumerate(reports.items()):
        axes[0, 2 * i].set_title(name, loc='left', fontweight='bold')
        for line, tensor in zip(axes, 'qkv'):
            row = report.pooled(tensor)
            _plot_potentials(line[2 * i], row)
            _plot_counts(line[2 * i + 1], row)
        axes[-1, 2 * i].set_xlabel('potential, all layers')
        if report.rows[0].levels:
            axes[-1, 2 * i + 1].set_xlabel('spike count')
    # A panel for what was measured: an ANN has no spikes, and without a
    # teacher there is no distance.
    measured = [each for each in (
        ('entropy', 'entropy of the spikes', 'bits'),
        ('fgd', 'FGD distance to the teacher', 'distance'))
        if any(has_figure(r, each[0]) for r in reports.values())]
    handles, labels = [], []
    panels = bottom.subplots(1, len(measured), squeeze=False)[0] \
        if measured else []
    for axes, (figure_name, title, unit) in zip(panels, measured):
        _plot_layers(axes, reports, figure_name, title, unit)
        for handle, label in zip(*axes.get_legend_handles_labels()):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    if handles:
        bottom.legend(handles, labels, loc='outside lower center', ncols=6,
                      frameon=False)
    write_figure(figure, path, dpi=100)


def _colors(levels: int) -> list:
    shades = matplotlib.colormaps['viridis'](np.linspace(0.75, 0.1, levels))
    return [SILENT, *shades]


def _plot_potentials(axes, row: TensorDistribution) -> None:
    edges = np.linspace(LOWEST, HIGHEST, BINS + 1)
    share = np.array(row.potentials) / sum(row.potentials)
    count = np.searchsorted(row.thresholds, edges[:-1], side='right')
    colors = _colors(max(row.levels or 1, len(row.thresholds)))
    for c, color in enumerate(colors):
        axes.stairs(
            np.where(count == c, share, 0.), edges, color=color, fill=True)
    axes.set_xlim(-3, 3)
    axes.set_ylabel(f'{row.tensor}\nshare', rotation=0, fontweight='bold',
                    labelpad=18)
    axes.set_yticks([])
    axes.spines[['top', 'right', 'left']].set_visible(False)


def _plot_counts(axes, row: TensorDistribution) -> None:
    text = [] if row.fgd is None else [f'FGD {row.fgd:.2f}']
    if row.levels:
        share = np.array(row.counts) / sum(row.counts)
        axes.bar(range(row.levels + 1), share, color=_colors(row.levels))
        axes.set_xticks(range(row.levels + 1))
        text = [f'{row.entropy:.2f} of {row.bound:.2f} bits',
                f'rate {row.firing_rate:.2f}', *text]
    else:
        axes.set_axis_off()
        text = ['no spikes', *text]
    axes.set(ylim=(0, 1.4), yticks=[0, 0.5, 1])  # room for the text
    axes.set_ylabel('share', fontsize='small')
    axes.tick_params(labelsize='small')
    axes.text(
        0.98, 0.98, '\n'.join(text), ha='right', va='top',
        transform=axes.transAxes, fontsize='small')
    axes.spines[['top', 'right']].set_visible(False)


def has_figure(report: EntropyReport, figure: str) -> bool:
    """Return whether all layers of a report have it."""
    return None not in [getattr(row, figure) for row in report.rows]


def _plot_layers(axes, reports: dict[str, EntropyReport], figure: str,
                 title: str, unit: str) -> None:
    labels: list[str] = []
    for (name, report), color in zip(reports.items(), LINES * 9):
        if not has_figure(report, figure):
            continue
        values = [getattr(row, figure) for row in report.rows]
        axes.plot(values, 'o-', color=color, label=name, markersize=4)
        if figure == 'entropy':
            axes.axhline(
                report.rows[0].bound, color=color, linestyle=':', zorder=0)
        if len(report.rows) > len(labels):
            labels = [_short(row) for row in report.rows]
    axes.set_title(title, fontsize='medium', loc='left')
    axes.set_xticks(range(len(labels)), labels, rotation=90,
                    fontsize='small')
    axes.set_ylim(bottom=0)
    axes.set_xlabel('stage.block and tensor; dotted: the bound'
                    if figure == 'entropy' else 'stage.block and tensor')
    axes.set_ylabel(unit)
    axes.spines[['top', 'right']].set_visible(False)


def _short(row: TensorDistribution) -> str:
    """Shorten 'stages.3.blocks.0.attn', 'q' to '3.0 q'."""
    numbers = [part for part in row.layer.split('.') if part.isdigit()]
    return f'{".".join(numbers)} {row.tensor}'
