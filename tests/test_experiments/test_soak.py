"""Nothing grows, no worker is missed; ``make torture`` runs for longer."""

from pathlib import Path

import pytest


@pytest.mark.skipif(not Path('/proc/self/statm').exists(),
                    reason='reads /proc, which is of Linux')
def test_open_files_and_memory_of_a_short_run(own_workplace):
    from experiments.torture.soak import soak
    found, wrong = soak(own_workplace, 100)
    assert wrong == []
    assert len(found['files']) == 1  # the same number, always


@pytest.mark.skipif(not Path('/proc/self/statm').exists(),
                    reason='finds the worker in /proc, which is of Linux')
def test_a_killed_worker_is_reported(own_workplace):
    from experiments.torture.soak import check_workers
    assert check_workers(
        own_workplace, points=('after_train_iter', )) == (1, [])
