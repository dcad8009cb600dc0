"""Tables for a terminal, and for a page."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def new_table(title: str, texts: tuple[str, ...],
              numbers: tuple[str, ...]) -> Table:
    """Make an empty table: columns of text, then columns of numbers."""
    table = Table(title=title, title_justify='left', box=SIMPLE_HEAD)
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify='right', no_wrap=True)
    return table


def to_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table for a page."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def print_table(table: Table) -> None:
    """Print a table as wide as it is, even if the terminal is narrower."""
    wide = Console(width=500).measure(table).maximum
    Console(width=max(Console().width, wide)).print(table)
