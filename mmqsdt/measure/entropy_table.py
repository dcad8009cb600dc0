"""Entropy reports as a table for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .entropy import EntropyReport, TensorDistribution


def print_entropy(reports: dict[str, EntropyReport]) -> None:
    """Print one table for each report."""
    console = Console()
    for name, report in reports.items():
        table = entropy_table(name, report)
        wide = Console(width=500).measure(table).maximum
        Console(width=max(console.width, wide)).print(table)


def entropy_table(name: str, report: EntropyReport) -> Table:
    """One line for q, k, v of every layer, and for each over all layers."""
    table = Table(
        title=f'{name}: spikes of {report.images} images',
        title_justify='left',
        box=SIMPLE_HEAD)
    table.add_column('layer', no_wrap=True)
    table.add_column('')
    for title in ('entropy\nbits', 'bound\nbits', 'firing\nrate', 'FGD',
                  'share of counts 0..D'):
        table.add_column(title, justify='right', no_wrap=True)
    for row in report.rows:
        table.add_row(*_cells(row))
    table.add_section()
    for tensor in 'qkv':
        table.add_row(*_cells(report.pooled(tensor)))
    return table


def _cells(row: TensorDistribution) -> list[str]:
    total = max(sum(row.counts), 1)
    return [
        row.layer, row.tensor,
        *('-' if x is None else f'{x:.3f}'
          for x in (row.entropy, row.bound, row.firing_rate, row.fgd)),
        ' '.join(f'{count / total:5.1%}' for count in row.counts) or '-'
    ]
