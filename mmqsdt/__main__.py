"""``mmqsdt``: what works here; with a tool's name, that tool.

    mmqsdt [--json] [--require cls det seg]
    mmqsdt train cls/qsdt_digits.py

Or ``python -m mmqsdt``. Nothing heavy is imported before it is known that
there is something to do.
"""

import ast
import runpy
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from .utils.configs import find_config
from .utils.text import read_text

PACKAGE = Path(__file__).resolve().parent
# Modules of mmqsdt.cli that are no tools.
SHARED = ('common', 'ending', 'smoke', 'zoo')
# Tools whose first argument is a config, and those whose second is a
# checkpoint, or may be one.
OF_CONFIG = ('calibrate', 'energy', 'export_onnx', 'pack', 'paper', 'predict',
             'publish', 'swap', 'test', 'train')
OF_CHECKPOINT = ('calibrate', 'energy', 'export_onnx', 'pack', 'publish',
                 'test')
WEIGHTS = ('.pth', '.pt', '.ckpt', '.safetensors')


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
    if arguments and arguments[0] in ('-h', '--help', 'help'):
        print(overview(tools))
    elif not arguments or arguments[0].startswith('-'):
        import_module('mmqsdt.cli.check_env').main()
    elif arguments[0] in tools:
        name, path = arguments[0], tools[arguments[0]]
        refuse_missing(name, arguments[1:])
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


def overview(tools: dict[str, Path]) -> str:
    """Say what each tool does, from the first line of its file."""
    lines = ['usage: mmqsdt TOOL ...      mmqsdt TOOL -h says more', '',
             'tools:']
    for name, path in tools.items():
        if path.parent.name != 'cli':  # a script that calls an experiment
            path = PACKAGE.parent / 'experiments' / f'{name}.py'
            if not path.is_file():
                path = path.with_suffix('') / '__main__.py'
        text = ast.get_docstring(ast.parse(read_text(path))) \
            if path.is_file() else None
        lines.append(f'  {name:19}{(text or "").splitlines()[0].rstrip(".")}'
                     if text else f'  {name}')
    return '\n'.join([
        *lines, '', 'A CONFIG is a path or a name: mmqsdt train --list',
        'Without a tool: what works on this machine (--json, --require)'])


def refuse_missing(tool: str, arguments: list[str]) -> None:
    """Say that a config or a checkpoint is not there, at once.

    Only of what comes before the first option; the tools say the same, and
    the rest, once they run.
    """
    named = []
    for argument in arguments:
        if argument.startswith('-'):
            break
        named.append(argument)
    try:
        if named and tool in OF_CONFIG:
            find_config(named[0])
    except (FileNotFoundError, ImportError) as error:
        raise SystemExit(str(error)) from None
    if tool in OF_CHECKPOINT:
        named = named[1:2]
    else:
        named = named[1:] if tool == 'predict' else []
    for path in named:
        if '://' in path or Path(path).exists():
            continue
        if path.endswith(WEIGHTS) or tool != 'predict':
            raise SystemExit(f'no checkpoint at {path}')
        raise SystemExit(f'no picture at {path}')


if __name__ == '__main__':
    run()
