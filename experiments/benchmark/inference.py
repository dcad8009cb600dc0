"""Predictions: time in turn, shares of the parts, memory, exponents."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from mmengine.config import Config

from .parts import timed_parts
from .report import Benchmark, Timing, fitted_exponent
from .runners import Models, alternate, sample_images
from .training import forget_peak, in_fresh_process, peak_resident

MIN_ROUNDS = 3
# Measured in the first case alone: compiling takes minutes, and slots take
# several times as long as all others.
FIRST_CASE_ONLY = ('ann_compiled', 'spikes')
# Runners whose memory is measured: what they need besides weights.
MEMORY_RUNNERS = ('float', 'fast', 'ann_folded')


def cases_of(batches: Sequence[int],
             sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Every batch size at the first resolution, and the first batch size at
    every resolution: (batch, size).
    """
    return [(b, sizes[0]) for b in batches] + [
        (batches[0], s) for s in sizes[1:]]


@torch.no_grad()
def measure_inference(report: Benchmark, models: Models,
                      batches: Sequence[int], sizes: Sequence[int],
                      warmup: int) -> None:
    """Time every runner in every case; see :func:`cases_of`.

    Larger inputs than the first have as many rounds fewer as they have more
    pixels, but three. ``FIRST_CASE_ONLY`` names runners that are slow.
    """
    cases = cases_of(batches, sizes)
    first = cases[0][0] * cases[0][1]**2
    for batch, size in cases:
        rounds = max(MIN_ROUNDS, min(
            report.rounds, report.rounds * first // (batch * size**2)))
        rounds = min(rounds, report.rounds)
        names = [name for name in models.names if (batch, size) == cases[0]
                 or name not in FIRST_CASE_ONLY]
        runners = models.runners(names, batch, size)
        seconds = alternate(runners, rounds, min(warmup, rounds),
                            report.clock)
        for name, times in seconds.items():
            report.timings.append(Timing(
                name, batch, size, times,
                measure_parts(models, name, runners[name], rounds,
                              report.clock)))
    report.skipped = models.skipped
    if len(sizes) > 1:
        for name in models.names:
            timings = [t for t in report.timings
                       if t.name == name and t.batch == batches[0]]
            if len(timings) < 2:
                continue
            report.exponents[name] = fitted_exponent(
                [t.size**2 for t in timings], [t.median for t in timings])
        measure_attention(report, models, sizes, warmup)


def measure_parts(models: Models, name: str, run: Callable, rounds: int,
                  clock: str) -> dict[str, float]:
    """Median seconds of backbone, neck and heads of a whole model."""
    model = models.timed.get(name)
    if model is None or models.is_classifier:
        return {}
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with timed_parts(model, clock) as seconds:
            run()
        for part, time in seconds.items():
            found.setdefault(part, []).append(time)
    return {part: float(np.median(times)) for part, times in found.items()}


def measure_attention(report: Benchmark, models: Models,
                      sizes: Sequence[int], warmup: int) -> None:
    """Time one attention unit at stride 16 of every resolution."""
    medians: dict[str, list[float]] = {}
    for size in sizes:
        runners = {}
        for name in models.names:
            backbone = getattr(models.forms.get(name), 'backbone', None)
            if backbone is not None:
                unit = backbone.stages[3].blocks[0].attn
                x = torch.randn(1, backbone.channels[3], size // 16,
                                size // 16)
                runners[name] = lambda unit=unit, x=x: unit(x)
        seconds = alternate(runners, report.rounds, warmup, report.clock)
        for name, times in seconds.items():
            medians.setdefault(name, []).append(float(np.median(times)))
    tokens = [(size // 16)**2 for size in sizes]
    report.attention_exponents = {
        name: fitted_exponent(tokens, times)
        for name, times in medians.items()
    }


@torch.no_grad()
def added_memory(name: str, cfg: Config, batch: int, size: int) -> float:
    """MiB that a prediction adds to the peak of a process with the model.

    It is the first of its size; a small image before it makes what is made
    once, such as packed weights.
    """
    import mmqsdt  # noqa: F401  in a fresh process
    models = Models(cfg, [name])
    models.runner(name, sample_images(1, 64))()
    run = models.runner(name, sample_images(batch, size))
    before = forget_peak()
    run()
    return peak_resident() - before


def measure_memory(report: Benchmark, cfg: Config, batch: int,
                   sizes: Sequence[int]) -> None:
    """Memory of a prediction, each in a fresh process, and its exponent."""
    for name in MEMORY_RUNNERS:
        found = {
            size: in_fresh_process(added_memory, name, cfg, batch, size)
            for size in sizes
        }
        report.memory[name] = found
        positive = {s: m for s, m in found.items() if m > 0}
        if len(positive) > 1:
            report.memory_exponents[name] = fitted_exponent(
                [s**2 for s in positive], list(positive.values()))
