"""Shared by all tests: one thread, fixed seeds, the golden vectors."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

DATA = Path(__file__).parent / 'data'

# Sums are then made in the same order on every machine's CPU count, and
# parallel test workers do not fight for cores.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``cuda`` where there is no GPU."""
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
def free_loading() -> Iterator[None]:
    """What a tool forbids for its process ends with the test of the tool."""
    yield
    os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)


@pytest.fixture(scope='session')
def workplace(tmp_path_factory) -> Path:
    """A folder with a few digits and the configs of short trainings."""
    pytest.importorskip('sklearn')
    pytest.importorskip('mmpretrain.models')  # once, for all children
    pytest.importorskip('mmseg.models')
    from experiments.torture.training import prepare
    folder = tmp_path_factory.mktemp('workplace')
    prepare(folder)
    return folder


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
