"""Where the time goes, by operation."""

from collections.abc import Callable

import torch
from mmengine.config import Config
from torch.profiler import ProfilerActivity, profile

from .report import Benchmark
from .runners import Models
from .training import TrainingStep

# Predictions and training steps that are profiled.
PROFILED = ('float', 'fast', 'ann', 'ann_folded')
PROFILED_STEPS = ('model', 'ann')


def time_by_operation(run: Callable[[], object],
                      rounds: int = 3) -> dict[str, float]:
    """Milliseconds of one call that each operation takes by itself.

    What Python does between operations is not among them, what autograd and
    its functions do in Python is. The profiler adds some microseconds to
    every operation.

    Args:
        run (Callable): Called once before.
        rounds (int): Calls to average over. Defaults to 3.
    """
    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(rounds):
            run()
    return {event.key: event.self_cpu_time_total / rounds / 1e3
            for event in profiler.key_averages()}


@torch.no_grad()
def profile_inference(report: Benchmark, models: Models, batch: int,
                      size: int) -> None:
    """Profile the predictions named in ``PROFILED``."""
    names = [name for name in PROFILED if name in models.names]
    runners = models.runners(names, batch, size)
    report.profile['inference'] = dict(batch=batch, size=size, ms={
        name: time_by_operation(run) for name, run in runners.items()})


def profile_training(report: Benchmark, cfg: Config, batch: int,
                     size: int) -> None:
    """Profile the training steps named in ``PROFILED_STEPS``."""
    report.profile['training'] = dict(batch=batch, size=size, ms={
        name: time_by_operation(TrainingStep(name, cfg, batch, size))
        for name in PROFILED_STEPS})
