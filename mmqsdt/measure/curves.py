"""Read the losses and scores that trainings logged."""

import json
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path

from ..utils.text import read_text

# What is drawn by default.
KEYS = ('loss', '*loss*', 'accuracy/top1', 'coco/bbox_mAP', 'coco/segm_mAP',
        'mIoU')
# What mmengine logs beside losses.
CLOCKS = ('step', 'iter', 'epoch')


@dataclass
class Curve:
    """One figure over a training.

    Attributes:
        iterations (list[int]): Since the start; of a score the last one
            logged before it.
        epochs (list[int | None]): Of scores, if the training counts epochs.
        values (list[float]): Finite values only.
    """
    iterations: list[int] = field(default_factory=list)
    epochs: list[int | None] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, iteration: int, epoch: int | None, value: float) -> None:
        """Append a point; a diverged loss leaves a gap."""
        if isfinite(value):
            self.iterations.append(iteration)
            self.epochs.append(epoch)
            self.values.append(value)


@dataclass
class Run:
    """What one training logged.

    Attributes:
        training (dict[str, Curve]): Logged in training iterations.
        scores (dict[str, Curve]): Logged after validations.
    """
    training: dict[str, Curve] = field(default_factory=dict)
    scores: dict[str, Curve] = field(default_factory=dict)


def read_run(work_dir: str | Path) -> Run:
    """Read what a training logged, across interruptions.

    The log of the last start is read. If it resumed an earlier one, that
    one's log up to the resumption comes first, and so on.

    Args:
        work_dir (str | Path): Of mmengine; contains
            ``<time>/vis_data/scalars.json``.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If nothing was logged there.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise FileNotFoundError(f'no work dir at {work_dir}')
    lines: list[dict] = []
    for log in sorted(work_dir.glob('*/vis_data/scalars.json'))[::-1]:
        earlier = _read_lines(log)
        lines = _before(earlier, lines) + lines
    if not lines:
        raise ValueError(
            f'{work_dir} has no log of a training (TIME/vis_data/'
            'scalars.json, which the LocalVisBackend writes)')
    return _to_run(lines)


def _read_lines(log: Path) -> list[dict]:
    lines = []
    for text in read_text(log).splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break  # half a line: still being written, or interrupted
    return lines


def _before(lines: list[dict], resumed: list[dict]) -> list[dict]:
    """Keep the lines of a log up to where the next log resumes."""
    first = next((x['iter'] for x in resumed if 'iter' in x), None)
    if first is None:  # only the last validation was left to do
        again = {x.get('step') for x in resumed}
        return [x for x in lines if 'iter' in x or _is_monitor(x)
                or x.get('step') not in again]
    for i, line in enumerate(lines):
        if line.get('iter', 0) >= first:
            return lines[:i]
    return lines


def _to_run(lines: list[dict]) -> Run:
    run, iteration = Run(), 0
    by_epoch = any('epoch' in line for line in lines)
    for line in lines:
        epoch = None
        if 'iter' in line:
            curves, iteration = run.training, line['iter']
        elif _is_monitor(line):
            curves, iteration = run.training, line['step']
        else:
            curves = run.scores
            epoch = line.get('step') if by_epoch else None
        for key, value in line.items():
            if key not in CLOCKS and isinstance(value, (int, float)):
                curves.setdefault(key, Curve()).add(iteration, epoch, value)
    return run


def _is_monitor(line: dict) -> bool:
    """Tell a line of SpikeMonitorHook from those of the runner."""
    return 'firing_rate/all' in line


def smooth(values: list[float], weight: float) -> list[float]:
    r"""Average over neighbors on both sides, so that peaks stay in place.

    .. math:: y_i = \sum_j \beta^{|i - j|} x_j / \sum_j \beta^{|i - j|}

    Args:
        values (list[float]): In order.
        weight (float): :math:`\beta`, 0..1; 0 leaves them as they are.

    Raises:
        ValueError: If the weight is not in [0, 1).
    """
    if not 0 <= weight < 1:
        raise ValueError(f'smoothing must be in [0, 1), got {weight}')

    def one_sided(x: list[float]) -> list[tuple[float, float]]:
        """Sum values and weights over each value and those before it."""
        total, norm, sums = 0., 0., []
        for value in x:
            total, norm = weight * total + value, weight * norm + 1
            sums.append((total, norm))
        return sums

    before, behind = one_sided(values), one_sided(values[::-1])[::-1]
    # The value itself is in both sums.
    return [(a + b - x) / (m + n - 1)
            for x, (a, m), (b, n) in zip(values, before, behind)]


def choose_keys(runs: dict[str, Run],
                patterns: list[str] | None = None) -> list[str]:
    """Choose the curves to draw, in the order of the patterns.

    Args:
        runs (dict): By name, of :func:`read_run`.
        patterns (list[str], optional): Names, in which ``*`` matches
            anything; None for losses and the main scores.

    Raises:
        ValueError: If a given pattern, or all default ones, match nothing.
    """
    known = list(dict.fromkeys(
        key for run in runs.values() for key in (*run.training, *run.scores)))
    chosen: list[str] = []
    for pattern in patterns or KEYS:
        found = [key for key in known if fnmatchcase(key, pattern)]
        if patterns and not found:
            raise ValueError(f'nothing called {pattern!r} was logged; there '
                             f'are {", ".join(known)}')
        chosen += [key for key in found if key not in chosen]
    if not chosen:
        raise ValueError('neither a loss nor a known score was logged; name '
                         f'what to draw: {", ".join(known)}')
    return chosen
