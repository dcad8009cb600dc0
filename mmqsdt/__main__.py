"""``python -m mmqsdt``: what works here; with a tool's name, that tool.

    python -m mmqsdt [--json] [--require cls det seg]
    python -m mmqsdt train cls/qsdt_digits.py
"""

import runpy
import sys
from difflib import get_close_matches
from pathlib import Path

from .environment import main


def find_tools() -> dict[str, Path]:
    """Name of a tool -> its file, in a checkout or in an installed wheel."""
    package = Path(__file__).resolve().parent
    folder = package / 'tools'
    if not folder.is_dir():
        folder = package.parent / 'tools'
    return {path.stem: path for path in sorted(folder.glob('[a-z]*.py'))}


def run(arguments: list[str]) -> None:
    """Run a tool as if it had been called by its path."""
    tools = find_tools()
    if not arguments or arguments[0].startswith('-'):
        main()
    elif arguments[0] in tools:
        tool = str(tools[arguments[0]])
        sys.argv = [tool, *arguments[1:]]
        runpy.run_path(tool, run_name='__main__')
    else:
        near = get_close_matches(arguments[0], tools, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise SystemExit(f'no tool {arguments[0]!r}{hint}\n  there are: '
                         f'{", ".join(tools)}')


if __name__ == '__main__':
    run(sys.argv[1:])
