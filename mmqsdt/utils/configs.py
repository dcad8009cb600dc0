"""Find shipped configs, and the command that calls a tool."""

from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path


def get_config_path(name: str = '') -> str:
    """Return the path of a shipped config.

    Args:
        name (str): Such as 'det/qsdt_maskrcnn_coco.py'; empty for the folder
            of all configs.

    Returns:
        str: Absolute path, to load or to use in ``_base_``.

    Raises:
        FileNotFoundError: If there is no such config; lists all names.
    """
    package = Path(__file__).resolve().parents[1]
    root = package / 'configs'  # an installed wheel
    if not root.is_dir():
        root = package.parent / 'configs'  # a checkout
    path = root / name
    if not path.exists():
        known = sorted(
            str(p.relative_to(root)) for p in root.glob('[cds]*/*.py'))
        raise FileNotFoundError(
            f'no config {name!r}; there are: {", ".join(known)}')
    return str(path)


def parts(config: dict | list | tuple) -> Iterator[dict]:
    """Yield every dict in a config, at any depth, inner ones first."""
    for value in list(config.values() if isinstance(config, dict)
                      else config):
        if isinstance(value, (dict, list, tuple)):
            yield from parts(value)
    if isinstance(config, dict):
        yield config


def plain(value: object) -> object:
    """Turn a config's dicts and tuples into plain dicts and lists."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def tool_command(name: str) -> str:
    """Return the command of a tool: its file inside a checkout, else by -m.

    Args:
        name (str): Such as 'train'.
    """
    home = Path(__file__).resolve().parents[2]
    file = home / f'tools/{name}.py'
    if file.is_file() and Path(f'tools/{name}.py').resolve() == file:
        return f'python tools/{name}.py'
    return f'python -m mmqsdt {name}'


def config_names() -> list[str]:
    """List the names of all shipped configs, such as 'cls/qsdt_digits'."""
    root = Path(get_config_path())
    return sorted(
        path.relative_to(root).with_suffix('').as_posix()
        for path in root.glob('[!_]*/*.py'))


def find_stock_config(name: str) -> str:
    """Find a config that a framework ships.

    Args:
        name (str): Such as 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'.

    Raises:
        FileNotFoundError: If there is none; suggests the nearest.
        ImportError: If the framework is not installed.
    """
    package, _, inside = name.partition('::')
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ImportError(f'{name}: {package or "the framework"} is not '
                          'installed: pip install "mmqsdt[all]"')
    root = Path(spec.origin).parent / '.mim/configs'
    if not root.is_dir():  # installed from its sources
        root = Path(spec.origin).parents[1] / 'configs'
    path = root / inside
    if path.suffix != '.py':
        path = path.with_name(f'{path.name}.py')
    if path.is_file():
        return str(path)
    known = [p.relative_to(root).as_posix() for p in root.rglob('*.py')]
    same = [k for k in known if k.endswith(f'/{path.name}')]
    near = same or get_close_matches(inside, known, n=3, cutoff=0.3)
    hint = ' or '.join(f'{package}::{each}' for each in near[:3])
    raise FileNotFoundError(f'{package} has no config {inside!r}'
                            + (f'; did you mean {hint}?' if hint else ''))


def find_config(name: str) -> str:
    """Return the path of a config: of that file, else of a shipped config.

    Args:
        name (str): A path; or, if there is no such file, the name of a
            shipped config, with or without folders and '.py':
            'qsdt_maskrcnn_coco', 'configs/det/qsdt_maskrcnn_coco.py'; or that
            of a framework's config, 'mmdet::...'.

    Raises:
        FileNotFoundError: If there is none; suggests similar names.
    """
    if Path(name).is_file():
        return name
    if '::' in name:
        return find_stock_config(name)
    wanted = name.removesuffix('.py').removeprefix('configs/')
    known = config_names()
    for each in known:
        if wanted in (each, each.split('/')[1]):
            return get_config_path(f'{each}.py')
    stems = {each.split('/')[1]: each for each in known}
    near = [stems[stem] for stem in get_close_matches(
        wanted.split('/')[-1], stems, n=3)]
    hint = f'; did you mean {" or ".join(near)}?' if near else ''
    raise FileNotFoundError(
        f'no config at {name}{hint}\n  all: python -m mmqsdt train --list')
