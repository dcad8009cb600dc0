"""Tables that a program keeps up to date inside a page."""

import argparse
from pathlib import Path


def add_page(parser: argparse.ArgumentParser) -> None:
    """Add ``--page`` to a tool that has ``--out``, a .json."""
    parser.add_argument(
        '--page', type=Path, help='.md file to put the table into, between '
        'its marks of the name of --out; default: --out as .md')


def write_table(table: str, path: str | Path, name: str = 'tables') -> None:
    """Put a table into a Markdown file, in place of the one there.

    Args:
        table (str): In Markdown.
        path (str | Path): A new file, or one that has the marks around its
            table: ``<!-- begin of NAME -->`` and ``<!-- end of NAME -->``.
        name (str): Which of the file's tables. Defaults to 'tables'.

    Raises:
        ValueError: If the file has no such marks.
    """
    path = Path(path)
    begin, end = f'<!-- begin of {name} -->\n', f'<!-- end of {name} -->\n'
    text = path.read_text() if path.exists() else begin + end
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f'{path} has no lines {begin.strip()} and '
                         f'{end.strip()} for the table to stand between')
    path.write_text(f'{before}{begin}\n{table}\n{end}{after}')
