"""Data sets with a fault, given to real trainings."""

import contextlib
import re
import sys
from pathlib import Path

import torch

from mmqsdt.checkpoints.read import load_state_dict
from mmqsdt.data.own_data import write_config

from .budget import Budget
from .training import ROOT, log_of, run

# The faults, which the tests of data sets inject one by one.
sys.path.insert(0, str(ROOT / 'tests/test_data'))
from faults import (  # noqa: E402
    BASES,
    LEFT_OUT,
    LENGTH,
    OPTIONS,
    READ,
    SHORT,
    VAL_FAULTS,
    VAL_WORDS,
    spoil,
)
from small_data import MAKERS  # noqa: E402

TRAINING = [*LEFT_OUT, *READ]
EVALUATION = tuple(VAL_FAULTS)


def make(folder: Path, kind: str) -> Path:
    """Make a small data set in a folder of that name; return the folder."""
    return MAKERS[kind](folder / kind)


def configure(folder: Path, kind: str) -> None:
    """Write my.py, which trains on the data, into the folder."""
    with contextlib.chdir(folder):
        write_config(kind, kind, 'my.py', BASES[kind])


def check_training(folder: Path, faults: list[tuple[str, str]] = TRAINING,
                   budget: Budget | None = None) -> tuple[int, list[str]]:
    """Train on each: to the end, and the broken sample is named, once."""
    budget, wrong = budget or Budget(), []
    for kind, fault in budget.each(faults):
        place = folder / f'{kind}_{fault}'
        path = spoil(kind, fault, make(place, kind))
        configure(place, kind)
        options = [f'train_dataloader.dataset.{key}={value}'
                   for key, value in OPTIONS.get(fault, {}).items()]
        code = run(place, 'train.py', 'my.py', '--work-dir', 'work',
                   '--cfg-options', f'train_cfg.{LENGTH[kind]}',
                   'train_cfg.val_interval=100', *SHORT, *options)
        log = log_of(place)
        named = [place / name for name in re.findall(
            r'left out of training, \d+ of \d+: (\S+) ', log)]
        expected = [path] if (kind, fault) in LEFT_OUT else []
        if code or [p.resolve() for p in named] != expected:
            wrong.append(f'{kind}, {fault}: ended with {code}, left out '
                         f'{named}: {log[-500:]}')
            continue
        last, = (place / 'work').glob('*.pth')
        if not all(torch.isfinite(v).all()
                   for v in load_state_dict(last).values()):
            wrong.append(f'{kind}, {fault}: weights are not finite')
    return budget.done, wrong


def check_evaluation(folder: Path, budget: Budget | None = None
                     ) -> tuple[int, list[str]]:
    """Check that a fault is refused, by path, before there is a work dir."""
    budget, wrong = budget or Budget(), []
    for kind in budget.each(EVALUATION):
        place = folder / f'{kind}_val'
        root = make(place, kind)
        configure(place, kind)
        VAL_FAULTS[kind](root)
        code = run(place, 'train.py', 'my.py', '--work-dir', 'work')
        if code != 1 or not re.search(VAL_WORDS[kind], log_of(place)) or \
                (place / 'work').exists():
            wrong.append(f'{kind}: {code}: {log_of(place)[-500:]}')
    return budget.done, wrong
