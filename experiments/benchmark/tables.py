"""Benchmarks as tables for a terminal, and as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from mmqsdt.utils import tables

from .report import Benchmark, Timing
from .runners import TITLES
from .training import TRAINING_TITLES

# Parts of whole models, and what is left of the time, as colours of bars.
PART_COLORS = dict(
    backbone='#00a0b0', neck='#7a5195', rpn_head='#eb6841', roi_head='#edc951',
    bbox_head='#edc951', decode_head='#edc951', other='#c8c8c8')


def benchmark_tables(report: Benchmark) -> list[Table]:
    """Everything that was measured."""
    tables = []
    for batch, size in report.cases():
        tables.append(inference_table(report, batch, size))
        if any(t.parts for t in report.of_case(batch, size)):
            tables.append(parts_table(report, batch, size))
    if report.memory:
        tables.append(memory_table(report))
    if report.exponents:
        tables.append(exponents_table(report))
    if report.training:
        tables.append(training_table(report.training))
    tables += [profile_table(what, found)
               for what, found in report.profile.items()]
    if report.loading:
        tables.append(loading_table(report.loading))
    return tables


def headline(report: Benchmark) -> str:
    """Say in one sentence what was measured where."""
    return (f'{report.config}: {report.machine}, {report.threads} threads, '
            f'{report.clock} time, medians of up to {report.rounds} rounds '
            'in turn')


def skipped_lines(report: Benchmark) -> list[str]:
    """Why runners are missing."""
    return [f'skipped: {TITLES[name]}: {reason}'
            for name, reason in report.skipped.items()]


def print_benchmark(report: Benchmark) -> None:
    """Print all tables."""
    console = Console(width=110)
    console.print(headline(report))
    for table in benchmark_tables(report):
        console.print(table)
    for line in skipped_lines(report):
        console.print(line)


def to_markdown(report: Benchmark) -> str:
    """All tables for a page."""
    blocks = [headline(report) + '.']
    for table in benchmark_tables(report):
        rows = zip(*(column.cells for column in table.columns))
        blocks.append(f'{table.title}:\n\n' + tables.to_markdown(
            [column.header for column in table.columns], rows))
    return '\n\n'.join([*blocks, *skipped_lines(report)])


def new_table(title: str, first: str, *names: str) -> Table:
    """Make a table whose columns hold numbers, except the first."""
    return tables.new_table(title, (first, ), names)


def inference_table(report: Benchmark, batch: int, size: int) -> Table:
    """Tabulate one case's times, and speeds over the counterpart's best."""
    rounds = len(report.of_case(batch, size)[0].seconds)
    table = new_table(
        f'Inference, batch {batch}, {size} x {size}, {rounds} rounds',
        'runner', 'ms', 'quartiles', 'images/s', 'speedup over best ANN')
    for t in report.of_case(batch, size):
        low, high = t.spread
        table.add_row(TITLES[t.name], f'{t.median:.1f}',
                      f'{low:.1f} .. {high:.1f}', f'{t.throughput:.1f}',
                      f'{report.speedup(t):.2f}')
    return table


def with_rest(timing: Timing) -> dict[str, float]:
    """Parts in ms, and the rest of the whole as 'other'."""
    parts = {part: s * 1e3 for part, s in timing.parts.items()}
    return dict(parts, other=max(0., timing.median - sum(parts.values())))


def parts_table(report: Benchmark, batch: int, size: int) -> Table:
    """Time of each part in ms, and its share."""
    rows = {t.name: with_rest(t) for t in report.of_case(batch, size)
            if t.parts}
    names = list(dict.fromkeys(p for parts in rows.values() for p in parts))
    table = new_table(f'Parts in ms, batch {batch}, {size} x {size}',
                      'runner', *names)
    for name, parts in rows.items():
        whole = sum(parts.values())
        table.add_row(TITLES[name], *(
            f'{parts[p]:.0f} ({parts[p] / whole:.0%})' if p in parts else ''
            for p in names))
    return table


def memory_table(report: Benchmark) -> Table:
    """Tabulate what a prediction adds to the memory of a process, MiB."""
    sizes = list(next(iter(report.memory.values())))
    table = new_table('Memory a prediction adds, MiB, batch 1', 'runner',
                      *(f'{s} x {s}' for s in sizes))
    for name, found in report.memory.items():
        table.add_row(TITLES[name], *(f'{found[s]:.0f}' for s in sizes))
    return table


def exponents_table(report: Benchmark) -> Table:
    """e of value = c * amount^e, fitted over the sizes."""
    columns = {
        'time, pixels': report.exponents,
        'memory, pixels': report.memory_exponents,
        'time of an attention unit, tokens': report.attention_exponents
    }
    table = new_table('Exponents', 'runner', *columns)
    for name in report.exponents:
        table.add_row(TITLES[name], *(
            f'{e[name]:.2f}' if name in e else '' for e in columns.values()))
    return table


def training_table(training: dict) -> Table:
    """Training steps over those of the counterpart."""
    table = new_table(
        f'Training step, batch {training["batch"]}, '
        f'{training["size"]} x {training["size"]}',
        'runner', 'ms', 'over ANN', 'peak MiB', 'over ANN')
    for name, title in TRAINING_TITLES.items():
        cells = [title]
        for key in ('median_ms', 'peak_mib'):
            value, ann = training[key][name], training[key]['ann']
            cells += [f'{value:.0f}', f'{value / ann:.2f}']
        table.add_row(*cells)
    return table


def profile_table(what: str, found: dict) -> Table:
    """Operations that take 2% of a runner or more, and the others' sum."""
    titles = TITLES if what == 'inference' else TRAINING_TITLES
    by_runner = found['ms']
    sums = {name: sum(ms.values()) for name, ms in by_runner.items()}
    largest = {
        key: max(ms[key] / sums[name] for name, ms in by_runner.items()
                 if key in ms)
        for ms in by_runner.values() for key in ms}
    keys = sorted((k for k, share in largest.items() if share >= 0.02),
                  key=lambda k: -largest[k])
    table = new_table(
        f'Profile of {what}, batch {found["batch"]}, {found["size"]} x '
        f'{found["size"]}, ms by operation', 'operation',
        *(titles[name] for name in by_runner))
    columns = by_runner.values()
    for key in keys:
        table.add_row(f'`{key}`', *(
            f'{ms[key]:.1f}' if key in ms else '' for ms in columns))
    table.add_row('others', *(
        f'{sum(t for key, t in ms.items() if key not in keys):.1f}'
        for ms in columns))
    table.add_row('sum', *(f'{total:.1f}' for total in sums.values()))
    return table


def loading_table(loading: list[dict]) -> Table:
    """Images a second of the training pipeline."""
    workers = list(dict.fromkeys(entry['workers'] for entry in loading))
    table = new_table('Training data, images/s', 'decoded by', *(
        f'{n} workers' for n in workers))
    speeds = {(e['backend'], e['workers']): e['images_per_second']
              for e in loading}
    for backend in dict.fromkeys(entry['backend'] for entry in loading):
        table.add_row(backend, *(
            f'{speeds[backend, n]:.0f}' for n in workers))
    return table


def plot_benchmark(report: Benchmark, path: str | Path) -> None:
    """Draw the times of every case as bars with quartiles.

    Bars of whole models show their parts.
    """
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
        draw_parts(axes, timings)
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


def draw_parts(axes, timings: list[Timing]) -> None:
    """Draw the parts of whole models as bars with a legend."""
    labelled = set()
    for row, timing in enumerate(timings):
        left = 0.
        for part, ms in (with_rest(timing) if timing.parts else {}).items():
            axes.barh(row, ms, left=left, color=PART_COLORS[part],
                      label=None if part in labelled else part)
            labelled.add(part)
            left += ms
    if labelled:
        axes.legend(
            loc='upper left', bbox_to_anchor=(1, 1), frameon=False)
