"""Training steps: time in turn, memory in fresh processes."""

import ctypes
import resource
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from mmqsdt.models.counterpart import counterpart_config
from mmqsdt.utils.build import build_model

from .report import Benchmark
from .runners import alternate

# What each step is, as tables say it.
TRAINING_TITLES = dict(
    model='float form (fake quantisation)',
    bfloat16='float form, bfloat16 autocast',
    ann='ANN counterpart',
    ann_bfloat16='ANN counterpart, bfloat16 autocast')


class TrainingStep:
    """One step of AdamW on the features of a model.

    Args:
        name (str): Key of ``TRAINING_TITLES``.
        cfg (Config): Of the model, whose counterpart may be asked for.
        batch (int): Images.
        size (int): Side of the images, in pixels.
    """

    def __init__(self, name: str, cfg: Config, batch: int, size: int) -> None:
        model = build_model(
            counterpart_config(cfg) if name.startswith('ann') else cfg)
        self.autocast = name.endswith('bfloat16')
        self.model = model.train().to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        self.images = torch.randn(batch, 3, size, size).contiguous(
            memory_format=torch.channels_last)

    def __call__(self) -> None:
        context = torch.autocast(
            'cpu', torch.bfloat16) if self.autocast else nullcontext()
        with context:
            loss = sum(x.float().square().mean()
                       for x in self.model.extract_feat(self.images))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def peak_resident() -> float:
    """Peak resident memory of this process, MiB."""
    status = Path('/proc/self/status')
    if status.exists():  # getrusage there counts what the parent had, too
        line, = (x for x in status.read_text().splitlines()
                 if x.startswith('VmHWM'))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def forget_peak() -> float:
    """Have the peak begin anew at what is in use, and return it, MiB.

    Freed memory goes back to the system first, where glibc is the allocator.
    Where the system cannot do that, the peak so far counts.
    """
    try:
        ctypes.CDLL('libc.so.6').malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')
    except (OSError, AttributeError):
        pass
    return peak_resident()


def in_fresh_process(measure: Callable[..., float], *args) -> float:
    """Call a function in a process that has done nothing else."""
    with get_context('spawn').Pool(1) as pool:
        return pool.apply(measure, args)


def peak_memory(name: str, cfg: Config, batch: int, size: int) -> float:
    """Peak resident memory of a process after two training steps, MiB."""
    import mmqsdt  # noqa: F401  in a fresh process
    step = TrainingStep(name, cfg, batch, size)
    step()
    step()
    return peak_resident()


def measure_training(report: Benchmark, cfg: Config, batch: int, size: int,
                     warmup: int) -> None:
    """Step times in turn; memory in fresh processes.

    The backbone, and the neck if there is one; all in channels_last.
    """
    steps = {name: TrainingStep(name, cfg, batch, size)
             for name in TRAINING_TITLES}
    seconds = alternate(steps, report.rounds, warmup, report.clock)
    del steps
    memory = {name: in_fresh_process(peak_memory, name, cfg, batch, size)
              for name in TRAINING_TITLES}
    report.training = dict(
        batch=batch, size=size, seconds=seconds, peak_mib=memory,
        median_ms={n: float(np.median(s) * 1e3) for n, s in seconds.items()})
