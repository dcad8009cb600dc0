"""What a benchmark found: times, memory, shares."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from mmqsdt.cli.check_env import find_distribution


@dataclass
class Timing:
    """Times of one runner on one input.

    Attributes:
        name (str): Key of ``TITLES``.
        batch (int): Images at once.
        size (int): Side of the images, in pixels.
        seconds (list[float]): One a round.
        parts (dict[str, float]): Median seconds of the parts of a whole
            model; empty if not measured.
    """
    name: str
    batch: int
    size: int
    seconds: list[float]
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of the rounds, in ms."""
        return float(np.median(self.seconds) * 1e3)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles of the rounds, in ms."""
        low, high = np.percentile(self.seconds, (25, 75)) * 1e3
        return float(low), float(high)

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.batch / self.median * 1e3


@dataclass
class Benchmark:
    """What was measured, and where.

    Attributes:
        config (str): Name of the config.
        threads (int): PyTorch's.
        rounds (int): Rounds of each runner; fewer where an input is larger.
        clock (str): Key of ``CLOCKS``.
        machine (str): Processor and versions.
        timings (list[Timing]): Of inference.
        skipped (dict[str, str]): Runners that did not run, and why.
        training (dict): Step time in s and peak memory in MiB, by key of
            ``TRAINING_TITLES``; empty if not measured.
        memory (dict[str, dict[int, float]]): MiB that a prediction adds to
            a process that has the model, by runner and image side.
        exponents (dict[str, float]): e of time = c * pixels^e, by runner.
        memory_exponents (dict[str, float]): The same of ``memory``.
        attention_exponents (dict[str, float]): e of time = c * tokens^e of
            one attention unit.
        loading (list[dict]): Images a second of the training data, by decode
            back end and worker processes.
        profile (dict[str, dict]): Of 'inference' and 'training': batch,
            size, and ms by runner and operation; empty if not profiled.
    """
    config: str
    threads: int
    rounds: int
    clock: str = 'wall'
    machine: str = ''
    timings: list[Timing] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    memory: dict[str, dict[int, float]] = field(default_factory=dict)
    exponents: dict[str, float] = field(default_factory=dict)
    memory_exponents: dict[str, float] = field(default_factory=dict)
    attention_exponents: dict[str, float] = field(default_factory=dict)
    loading: list[dict] = field(default_factory=list)
    profile: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.machine = self.machine or describe_machine()

    def cases(self) -> list[tuple[int, int]]:
        """(batch, size) in the order they were measured."""
        return list(dict.fromkeys((t.batch, t.size) for t in self.timings))

    def of_case(self, batch: int, size: int) -> list[Timing]:
        """Return the timings of a case."""
        return [t for t in self.timings if (t.batch, t.size) == (batch, size)]

    def timing(self, name: str, batch: int, size: int) -> Timing | None:
        """Of one runner in a case."""
        return next((t for t in self.of_case(batch, size) if t.name == name),
                    None)

    def baseline(self, batch: int, size: int) -> Timing | None:
        """Return the counterpart's best timing of a case."""
        found = [t for t in self.of_case(batch, size)
                 if t.name.startswith('ann')]
        return min(found, key=lambda t: t.median, default=None)

    def speedup(self, timing: Timing) -> float:
        """Best time of the counterpart over this."""
        baseline = self.baseline(timing.batch, timing.size)
        return baseline.median / timing.median if baseline else float('nan')

    def write_json(self, path: str | Path) -> None:
        """Everything, times of all rounds included."""
        data = asdict(self)
        for entry, timing in zip(data['timings'], self.timings):
            entry.update(
                median_ms=timing.median,
                quartiles_ms=timing.spread,
                images_per_second=timing.throughput,
                speedup=self.speedup(timing))
        Path(path).write_text(json.dumps(data, indent=1))


def fitted_exponent(amounts: Sequence[float],
                    values: Sequence[float]) -> float:
    """e of the least squares fit of value = c * amount^e."""
    return float(np.polyfit(np.log(amounts), np.log(values), 1)[0])


def describe_machine() -> str:
    """Processor, its instructions for small numbers, and versions."""
    name, flags = platform.processor() or platform.machine(), ''
    info = Path('/proc/cpuinfo')
    if info.exists():
        lines = dict(
            line.split('\t', 1) for line in info.read_text().splitlines()
            if '\t' in line)
        name = lines.get('model name', name).lstrip('\t: ')
        known = lines.get('flags', '').split()
        flags = ' '.join(
            f for f in ('avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16',
                        'amx_int8', 'amx_bf16') if f in known)
    text = f'{name} ({flags}), PyTorch {torch.__version__}'
    _, runtime = find_distribution('onnxruntime')
    return f'{text}, ONNX Runtime {runtime}' if runtime else text
