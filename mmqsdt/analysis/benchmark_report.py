"""Benchmarks as tables for a terminal, and as a bar chart."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .benchmark import TITLES, TRAINING_GOALS, TRAINING_TITLES, Benchmark


def print_benchmark(report: Benchmark) -> None:
    """Print tables of inference, training and exponents."""
    console = Console(width=110)
    console.print(f'{report.config}: {report.machine}, {report.threads} '
                  f'threads, {report.clock} time, medians of {report.rounds} '
                  'rounds in turn')
    for batch, size in report.cases():
        table = Table(
            title=f'Inference, batch {batch}, {size} x {size}',
            title_justify='left', box=SIMPLE_HEAD)
        table.add_column('runner')
        for name in ('ms', 'quartiles', 'images/s', 'speedup over best ANN'):
            table.add_column(name, justify='right')
        for t in report.of_case(batch, size):
            low, high = t.spread
            table.add_row(TITLES[t.name], f'{t.median:.1f}',
                          f'{low:.1f} .. {high:.1f}', f'{t.throughput:.1f}',
                          f'{report.speedup(t):.2f}')
        console.print(table)
    for name, reason in report.skipped.items():
        console.print(f'skipped: {TITLES[name]}: {reason}')
    for what, exponents in (
            ('pixels, whole model', report.exponents),
            ('tokens, one attention unit', report.attention_exponents)):
        if exponents:
            console.print(f'exponent of time against {what}: ' + ', '.join(
                f'{n} {e:.2f}' for n, e in exponents.items()))
    if report.training:
        console.print(training_table(report.training))


def training_table(training: dict) -> Table:
    """Training steps over those of the counterpart, beside the goals."""
    table = Table(
        title=f'Training step, batch {training["batch"]}, '
        f'{training["size"]} x {training["size"]}',
        title_justify='left', box=SIMPLE_HEAD)
    table.add_column('runner')
    for name in ('ms', 'over ANN', 'goal', 'peak MiB', 'over ANN', 'goal'):
        table.add_column(name, justify='right')
    for name, title in TRAINING_TITLES.items():
        cells = [title]
        goals = TRAINING_GOALS.get(name, (None, None))
        for key, goal in zip(('median_ms', 'peak_mib'), goals):
            value, ann = training[key][name], training[key]['ann']
            cells += [f'{value:.0f}', f'{value / ann:.2f}',
                      f'<= {goal:.2f}' if goal else '']
        table.add_row(*cells)
    return table


def plot_benchmark(report: Benchmark, path: str | Path) -> None:
    """Draw the times of every case as bars with quartiles."""
    cases = report.cases()
    figure = Figure(figsize=(10, 1 + 2.6 * len(cases)), layout='constrained')
    grid = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axes, (batch, size) in zip(grid, cases):
        timings = report.of_case(batch, size)
        medians = [t.median for t in timings]
        errors = np.abs(np.array([t.spread for t in timings]).T - medians)
        colors = ['#8c8c8c' if t.name.startswith('ann') else
                  '#00a0b0' if t.name == 'fast' else '#30425c'
                  for t in timings]
        bars = axes.barh(range(len(timings)), medians, xerr=errors,
                         color=colors, ecolor='#b0b0b0')
        axes.bar_label(bars, [f'{t.median:.1f} ms ({report.speedup(t):.2f}x)'
                              for t in timings], padding=6)
        axes.set_yticks(range(len(timings)), [TITLES[t.name] for t in timings])
        axes.set(title=f'batch {batch}, {size} x {size}', xlabel='ms',
                 xlim=(0, 1.3 * max(medians)))
        axes.invert_yaxis()
        axes.spines[['top', 'right']].set_visible(False)
    figure.suptitle(
        f'{report.config}, {report.threads} threads, {report.clock} time; '
        'in brackets the speed over the best of the ANN counterpart')
    figure.savefig(path, dpi=110)
