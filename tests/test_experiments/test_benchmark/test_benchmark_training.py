from pathlib import Path

import pytest
import torch

from experiments.benchmark import TRAINING_TITLES
from experiments.benchmark.training import (
    TrainingStep,
    forget_peak,
    in_fresh_process,
    peak_memory,
    peak_resident,
)


@pytest.mark.parametrize('name', TRAINING_TITLES)
def test_a_step_changes_every_weight(name, small):
    step = TrainingStep(name, small, 2, 32)
    before = [p.clone() for p in step.model.backbone.parameters()]
    step()
    assert all(not torch.equal(p, old) for p, old in zip(
        step.model.backbone.parameters(), before) if old.dim() > 1)


def test_memory_is_that_of_a_fresh_process(small):
    ballast = torch.ones(2**28)  # 1 GiB that no child has
    peak = in_fresh_process(peak_memory, 'model', small, 1, 32)
    assert peak < 1024 and len(ballast)


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(),
                    reason='the peak begins anew on Linux alone')
def test_the_peak_is_forgotten_and_reached_again():
    ballast = torch.ones(2**26)  # 256 MiB
    high = peak_resident()
    del ballast
    low = forget_peak()
    assert low < high - 200
    ballast = torch.ones(2**25)
    assert 100 < peak_resident() - low < 200 and len(ballast)
