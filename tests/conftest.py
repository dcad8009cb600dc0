"""Shared by all tests: one thread, fixed seeds, the golden vectors."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gloo import join_over_gloo
from mmengine.config import Config
from mmengine.dataset import base_dataset
from mmengine.registry import DefaultScope
from shared import forget_visualizers

DATA = Path(__file__).parent / 'data'
# The files that take longest, longest first: with several workers they are
# begun first, so that none of them is left alone at the end.
LONGEST = ('test_docs_commands.py', 'test_forms.py', 'test_zoo.py',
           'test_geometry.py', 'test_distributed.py', 'test_tools.py')

# Sums are then made in the same order on every machine's CPU count, and
# parallel test workers do not fight for cores.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first; tests marked ``cuda`` only where a GPU is."""
    order = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        if item.get_closest_marker('cuda') and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason='no GPU'))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test draws the same random numbers, alone or in a suite."""
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_default_scope() -> None:
    """A test of one framework does not decide what the next one builds."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def fresh_visualizers() -> None:
    """A visualizer lives as long as its process; each test wants its own."""
    forget_visualizers()


@pytest.fixture(autouse=True, scope='session')
def quick_mmengine() -> Iterator[None]:
    """Two things are left out that take longer than the trainings of tests.

    A runner lays its config out by yapf, five times and for each checkpoint;
    here it is written as it comes. A data set that is built collects garbage,
    half a second long, for the sake of memory.
    """
    text = Config.pretty_text.fget

    def unformatted(cfg: Config) -> str:
        object.__setattr__(cfg, '_format_python_code', False)
        return text(cfg)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(unformatted))
        patch.setattr(base_dataset, 'gc', SimpleNamespace(collect=int))
        yield


@pytest.fixture(autouse=True)
def free_loading() -> Iterator[None]:
    """What a tool forbids for its process ends with the test of the tool."""
    yield
    os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)


@pytest.fixture(scope='session')
def copy_digits(tmp_path_factory) -> Callable[[Path], Path]:
    """``copy_digits(folder)`` puts data/digits there; they are made once.

    Four scenes to train on, two to test; of a digit two pictures and one.
    """
    pytest.importorskip('sklearn')
    from mmqsdt.data import prepare_digits
    made = tmp_path_factory.mktemp('made') / 'digits'
    prepare_digits(made, num_train=4, num_val=2, progress=False)
    for split, keep in (('train', 2), ('val', 1)):
        for digit in (made / 'cls' / split).iterdir():
            for picture in sorted(digit.iterdir())[keep:]:
                picture.unlink()

    def copy(folder: Path) -> Path:
        shutil.copytree(made, folder / 'data/digits')
        return folder

    return copy


@pytest.fixture(scope='session')
def copy_workplace(tmp_path_factory) -> Callable[[Path], Path]:
    """``copy_workplace(folder)``: a few digits, configs of short trainings."""
    pytest.importorskip('sklearn')
    pytest.importorskip('mmpretrain.models')  # once, for all children
    pytest.importorskip('mmseg.models')
    from experiments.torture.training import prepare
    made = tmp_path_factory.mktemp('made')
    prepare(made)

    def copy(folder: Path) -> Path:
        return shutil.copytree(made, folder, dirs_exist_ok=True)

    return copy


@pytest.fixture(scope='session')
def workplace(copy_workplace, tmp_path_factory) -> Path:
    """A folder with a few digits and the configs of short trainings."""
    return copy_workplace(tmp_path_factory.mktemp('workplace'))


@pytest.fixture
def own_workplace(copy_workplace, tmp_path) -> Path:
    """The same, for one test."""
    return copy_workplace(tmp_path)


@cache
def _read(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f'{name}.npz', allow_pickle=False) as arrays:
        return dict(arrays)


def load_golden(name: str, prefix: str = '') -> dict:
    """Entries of ``tests/data/<name>.npz`` whose names start with a prefix.

    Args:
        name (str): 'units', 'tiny_cls', 'det_backbone' or 'heads'.
        prefix (str): Selects entries and is cut off their names, e.g.
            'conv2d/' or 'state/'. Defaults to '' (all entries).

    Returns:
        dict: Fresh tensors; text as str (scalars) or list of str.

    Raises:
        KeyError: If no entry starts with the prefix.
    """
    found = {
        key.removeprefix(prefix):
        array.tolist() if array.dtype.kind == 'U' else torch.tensor(array)
        for key, array in _read(name).items() if key.startswith(prefix)
    }
    if not found:
        raise KeyError(f'nothing in {name}.npz starts with {prefix!r}')
    return found


@pytest.fixture
def golden() -> Callable[..., dict]:
    """``golden(name, prefix='')``, see :func:`load_golden`."""
    return load_golden


@pytest.fixture
def two_processes(tmp_path: Path) -> Callable[..., None]:
    """``two_processes(f, *args)`` runs ``f(rank, tmp_path, *args)`` in two.

    They are joined over gloo; f must be at the top of its module.
    """
    if not (torch.distributed.is_available()
            and torch.distributed.is_gloo_available()):
        pytest.skip('this build of torch has no gloo')
    return lambda function, *args: torch.multiprocessing.spawn(
        join_over_gloo, (function, tmp_path, args), nprocs=2)
