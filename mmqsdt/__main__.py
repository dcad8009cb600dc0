"""``mmqsdt``: what works here; with a tool's name, that tool.

    mmqsdt [--json] [--require cls det seg]
    mmqsdt train cls/qsdt_digits.py

Or ``python -m mmqsdt``.
"""

import runpy
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from .cli.check_env import main

PACKAGE = Path(__file__).resolve().parent
# Modules of mmqsdt.cli that are no tools.
SHARED = ('common', 'ending', 'smoke', 'zoo')


def find_tools() -> dict[str, Path]:
    """Name of a tool -> its file; in a checkout the experiments' too."""
    found = {}
    if (PACKAGE.parent / 'model-index.yml').is_file():  # a checkout
        found = {p.stem: p for p in PACKAGE.parent.glob('tools/[a-z]*.py')}
    found.update({p.stem: p for p in PACKAGE.glob('cli/[a-z]*.py')
                  if p.stem not in SHARED})
    return dict(sorted(found.items()))


def run(arguments: list[str] | None = None) -> None:
    """Run a tool as if it had been called by its path.

    Args:
        arguments (list[str], optional): Its name and arguments; None takes
            those of the command line.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    tools = find_tools()
    if not arguments or arguments[0].startswith('-'):
        main()
    elif arguments[0] in tools:
        name, path = arguments[0], tools[arguments[0]]
        sys.argv = [str(path), *arguments[1:]]
        if path.parent.name == 'cli':
            import_module(f'mmqsdt.cli.{name}').main()
        else:
            runpy.run_path(str(path), run_name='__main__')
    else:
        near = get_close_matches(arguments[0], tools, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise SystemExit(f'no tool {arguments[0]!r}{hint}\n  there are: '
                         f'{", ".join(tools)}')


if __name__ == '__main__':
    run()
