"""Nothing grows, no worker is missed; ``make torture`` runs for longer."""

from pathlib import Path

import pytest


@pytest.fixture
def workplace(tmp_path) -> Path:
    """A folder with a few digits."""
    pytest.importorskip('sklearn')
    pytest.importorskip('mmpretrain.models')
    from experiments.torture.training import prepare
    prepare(tmp_path)
    return tmp_path


@pytest.mark.skipif(not Path('/proc/self/statm').exists(),
                    reason='reads /proc, which is of Linux')
def test_open_files_and_memory_of_a_short_run(workplace):
    from experiments.torture.soak import soak
    found, wrong = soak(workplace, 100)
    assert wrong == []
    assert len(found['files']) == 1  # the same number, always


@pytest.mark.skipif(not Path('/proc/self/statm').exists(),
                    reason='finds the worker in /proc, which is of Linux')
def test_a_killed_worker_is_reported(workplace):
    from experiments.torture.soak import check_workers
    assert check_workers(workplace, points=('after_train_iter', )) == (1, [])
