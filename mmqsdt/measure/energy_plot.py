"""Energy reports as a bar chart."""

from pathlib import Path

from matplotlib.figure import Figure

from .energy_report import EnergyReport
from .energy_table import TITLES
from .style import write_figure

ANN, MODEL, REAL, SPIKES = '#8c8c8c', '#30425c', '#d1495b', '#00a0b0'
MAX_BARS = 28


def plot_energy(report: EnergyReport, path: str | Path) -> None:
    """Draw the totals of every measure, and where the energy goes.

    Args:
        report (EnergyReport): Of :func:`measure_energy`.
        path (str | Path): The picture, .png or .svg.
    """
    groups = _groups(report)
    figure = Figure(
        figsize=(13, max(5.5, 0.3 * len(groups) + 1.8)), layout='constrained')
    totals, blocks = figure.subplots(1, 2, width_ratios=(1, 1.1))
    _plot_totals(totals, report)
    _plot_groups(blocks, report, groups)
    figure.suptitle(
        f'Energy of one image (mean over {report.images}; '
        f'{report.costs.mac_pj} pJ a MAC, {report.costs.ac_pj} pJ an AC)')
    write_figure(figure, path, dpi=110)


def _plot_totals(axes, report: EnergyReport) -> None:
    total, ratios = report.totals()['total'], report.ratios()
    values = [total[m] for m in report.measures]
    colors = [ANN if m.startswith('ann') else MODEL for m in report.measures]
    bars = axes.barh(range(len(values)), values, color=colors)
    labels = [
        f'{total[m]:.3g} mJ' +
        (f'  ({_compared(ratios[m])})' if m in ratios else '')
        for m in report.measures
    ]
    axes.bar_label(bars, labels, padding=4)
    axes.set_yticks(
        range(len(values)), [TITLES[m] for m in report.measures])
    axes.set(
        title='The whole model, by measure', xlabel='mJ',
        xlim=(0, 1.45 * max(values)))
    _clean(axes)


def _compared(ratio: float) -> str:
    """How many times less or, below one, more a model takes."""
    if 0 < ratio < 1:
        return f'{1 / ratio:.1f}x more'
    return f'{ratio:.1f}x less'


def _groups(report: EnergyReport) -> dict[str, list]:
    """Layers joined by the longest common paths that fit the chart."""
    for depth in range(8, 0, -1):
        groups: dict[str, list] = {}
        for layer in report.layers:
            path = '.'.join(layer.name.split('.')[:depth])
            groups.setdefault(path, []).append(layer)
        if len(groups) <= MAX_BARS:
            break
    return groups


def _plot_groups(axes, report: EnergyReport, groups: dict[str, list]) -> None:
    def energies(kind: str, cost: float) -> list[float]:
        return [
            sum(layer.counted['thermometer'][kind]
                for layer in layers) * cost * 1e-6
            for layers in groups.values()
        ]

    spikes = energies('ac', report.costs.ac_pj)
    real = energies('mac', report.costs.mac_pj)
    rows = range(len(groups))
    axes.barh(rows, spikes, color=SPIKES, label='reads spikes: AC')
    axes.barh(
        rows, real, left=spikes, color=REAL, label='reads real values: MAC')
    axes.set_yticks(rows, list(groups))
    axes.set(title='Where it goes (counted, thermometer slots)', xlabel='uJ')
    axes.figure.legend(loc='outside lower right', ncols=2, frameon=False)
    _clean(axes)


def _clean(axes) -> None:
    axes.invert_yaxis()
    axes.locator_params(axis='x', nbins=6)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(axis='y', length=0)
