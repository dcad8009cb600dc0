"""Draw the curves of trainings, with several runs in each panel."""

from math import ceil
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .curves import Curve, Run, smooth
from .style import COLORS, save_picture

COLUMNS = 3
# How many independent values about are left in a smoothed curve.
POINTS_LEFT = 20
# Least height of a panel of scores, as a share of the best score.
LEAST_SPAN = 0.2
STYLES = ('-', '--', '-.', ':')


def plot_curves(runs: dict[str, Run], keys: list[str],
                smoothing: float | None, stem: str | Path) -> list[Path]:
    """Draw one panel for each key, with a line for each run.

    Args:
        runs (dict): By name, of :func:`read_run`.
        keys (list[str]): Of :func:`choose_keys`.
        smoothing (float, optional): Weight for :func:`smooth`, of what was
            logged in training; the values as logged are drawn pale behind.
            None smooths long logs more than short ones.
        stem (str | Path): Path of the files, without a suffix.
    """
    columns = 2 if len(keys) == 4 else min(COLUMNS, len(keys))
    rows = ceil(len(keys) / columns)
    figure = Figure(
        figsize=(max(4.2 * columns, 6), 2.8 * rows + 0.8),
        layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    by_epoch = all(
        None not in curve.epochs
        for run in runs.values() for curve in run.scores.values())
    for axes, key in zip(panels, keys):
        _draw(axes, runs, key, smoothing, by_epoch)
    for axes in panels[len(keys):]:
        axes.set_visible(False)
    lines = [
        Line2D([], [], color=color, linestyle=style, linewidth=2)
        for color, style in map(_look, range(len(runs)))
    ]
    figure.legend(
        lines, list(runs), loc='outside lower center', frameon=False,
        ncols=min(len(runs), 4))
    smoothed = any(
        _weight(run.training[key], smoothing) for run in runs.values()
        for key in keys if key in run.training)
    figure.suptitle(
        'Training' + smoothed * ' (pale: as logged, bold: smoothed)',
        fontweight='bold')
    return save_picture(figure, stem)


def _look(number: int) -> tuple[str, str]:
    """Choose color and line style of a run."""
    return (COLORS[number % len(COLORS)],
            STYLES[number // len(COLORS) % len(STYLES)])


def _weight(curve: Curve, smoothing: float | None) -> float:
    """Choose the weight of neighbors for :func:`smooth`."""
    if smoothing is None:
        return max(0., 1 - POINTS_LEFT / max(len(curve.values), 1))
    return smoothing


def _draw(axes, runs: dict[str, Run], key: str, smoothing: float | None,
          by_epoch: bool) -> None:
    tops: list[float] = []
    last: list[tuple[float, float, str]] = []
    is_score = any(key in run.scores for run in runs.values())
    for i, run in enumerate(runs.values()):
        color, style = _look(i)
        curve = run.training.get(key)
        if curve and curve.values:
            values = smooth(curve.values, _weight(curve, smoothing))
            axes.plot(curve.iterations, curve.values, color=color,
                      alpha=0.4, linewidth=0.8)
            axes.plot(curve.iterations, values, color=color, linestyle=style,
                      linewidth=2)
            tops += values
        curve = run.scores.get(key)
        if curve and curve.values:
            last.append(_draw_score(axes, curve, by_epoch, color, style))
    axes.set_title(key, loc='left', fontsize='medium', fontweight='bold')
    axes.set_xlabel('epoch' if is_score and by_epoch else 'iteration')
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.25)
    axes.locator_params(axis='x', integer=True, nbins=7)
    axes.set_xlim(0, 1.12 * axes.dataLim.x1)  # room for the last score
    if is_score:
        low, high = axes.dataLim.y0, axes.dataLim.y1
        if low == high:  # nothing to compare with
            axes.set_ylim(0, 1.15 * high or 1)
        elif high - low < LEAST_SPAN * abs(high):
            # Do not magnify small differences.
            margin = LEAST_SPAN * abs(high) - (high - low)
            axes.set_ylim(low - margin / 2, high + margin / 2)
        _write_last(axes, last)
    elif tops:  # the smoothed curve, not its peaks, sets the range
        low, high = min(0., *tops, 0.), max(tops)
        axes.set_ylim(low, low + 1.15 * (high - low) or 1)


def _draw_score(axes, curve: Curve, by_epoch: bool, color: str,
                style: str) -> tuple[float, float, str]:
    """Draw a score; return the place and the color of its last value."""
    x = curve.epochs if by_epoch else curve.iterations
    axes.plot(x, curve.values, 'o', color=color, linestyle=style,
              linewidth=1.8, markersize=4)
    return x[-1], curve.values[-1], color


def _write_last(axes, last: list[tuple[float, float, str]]) -> None:
    """Write last values beside their points, without overlap."""
    low, high = axes.get_ylim()
    places = apart([y for _, y, _ in last], 0.075 * (high - low))
    for (x, value, color), place in zip(last, places):
        axes.annotate(
            f'{value:.3g}', (x, place), textcoords='offset points',
            xytext=(6, 0), va='center', color=color, fontsize='small',
            fontweight='bold')


def apart(values: list[float], distance: float) -> list[float]:
    """Move labels along an axis so that they do not overlap.

    Args:
        values (list[float]): Where the labels belong.
        distance (float): Least distance between two labels.

    Returns:
        list[float]: In the same order, and with the same mean.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    placed = [values[i] for i in order]
    for _ in placed:
        for j in range(1, len(placed)):
            missing = distance - (placed[j] - placed[j - 1])
            if missing > 1e-9 * distance:
                placed[j - 1] -= missing / 2
                placed[j] += missing / 2
    return [y for _, y in sorted(zip(order, placed))]
