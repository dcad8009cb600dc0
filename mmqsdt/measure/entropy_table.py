"""Print entropy reports as tables."""

from rich.table import Table

from ..utils.tables import new_table, print_table
from .entropy import EntropyReport, TensorDistribution


def print_entropy(reports: dict[str, EntropyReport]) -> None:
    """Print one table for each report."""
    for name, report in reports.items():
        print_table(entropy_table(name, report))


def entropy_table(name: str, report: EntropyReport) -> Table:
    """Make a line for q, k, v of every layer, and for each over all."""
    table = new_table(
        f'{name}: spikes of {report.images} images', ('layer', ''),
        ('entropy\nbits', 'bound\nbits', 'firing\nrate', 'FGD',
         'share of counts 0..D'))
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
