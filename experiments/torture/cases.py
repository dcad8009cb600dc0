"""All cases: what ``make torture`` runs, in this order.

First what a training is trusted for, then what takes long; the inputs of the
fuzzers, which can be cut anywhere, come last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import data, fuzz, hostile, interruption, numbers, processes, soak
from .budget import Budget


@dataclass
class Case:
    """Faults of one kind.

    Attributes:
        fault (str): What is injected.
        promise (str): What must not be lost.
        times (int): How many faults, if there is time.
        seconds (int): What they took on two cores. Of the time that is left
            a case is given its share, by this and those of the cases to
            come.
        run (Callable): Given a folder with the digits and a Budget, injects
            the faults; returns how many, and every breach of the promise.
    """
    fault: str
    promise: str
    times: int
    seconds: int
    run: Callable[[Path, Budget], tuple[int, list[str]]]


EXACT = 'resumed bit for bit'
SETTINGS = {
    'epochs_ema': 'by epoch, EMA',
    'epochs_fgd': 'by epoch, distillation',
    'epochs_workers': 'by epoch, worker processes',
    'epochs_inside': 'by epoch, saved within',
    'iterations_ema': 'by iteration, EMA',
    'iterations_workers': 'by iteration, worker processes',
}


def signals(setting: str, words: str) -> Case:
    return Case(
        f'SIGTERM, SIGINT, kill -9 in training and validation: {words}',
        EXACT, 6, 40, lambda folder, budget: interruption.check_signals(
            folder, setting, budget))


def fuzzed(fault: str, promise: str, times: int, seconds: int,
           fuzzer: Callable) -> Case:
    return Case(fault, promise, times, seconds,
                lambda folder, budget: fuzz.fuzz_apart(
                    folder, fuzzer, times, budget))


def case(fault: str, promise: str, times: int, seconds: int,
         check: Callable) -> Case:
    """Make a case of a check that takes a budget by name."""
    return Case(fault, promise, times, seconds,
                lambda folder, budget: check(folder, budget=budget))


def single(fault: str, promise: str, seconds: int, check: Callable) -> Case:
    """Make a case of a check that is one fault."""
    return Case(fault, promise, 1, seconds,
                lambda folder, budget: check(folder))


WAYS = hostile.paths_into_us(Path(), '')
TOOLS = {command[0] for command in WAYS.values()}
CASES = [
    *(signals(*item) for item in SETTINGS.items()),
    case('kill -9 while a checkpoint is written', EXACT, 12, 60,
         interruption.check_writing),
    case('kill -9 while the best checkpoint is replaced',
         'one is always there; ' + EXACT, 4, 30, interruption.check_best),
    Case('kill -9 at any moment', EXACT, 10, 60,
         lambda folder, budget: interruption.check_any_moment(
             folder, 10, budget=budget)),
    single('second SIGTERM', 'stops at once', 5,
           interruption.check_second_signal),
    single('disk full', 'clear error, last checkpoint stays', 15,
           interruption.check_full_disk),
    case('corrupt last checkpoint', 'the one before it, with a warning', 5,
         20, interruption.check_corrupt),
    case('the same seed again', 'equal bit for bit', 2, 20,
         interruption.check_same_seed),
    case(f'code in a checkpoint, on {len(WAYS)} ways into {len(TOOLS)} tools',
         'never executed', len(hostile.ways_and_kinds()), 150,
         hostile.check_hostile),
    case('broken checkpoint, to resume, to start from and to test',
         'one clear error', len(hostile.files_and_tools({}, Path())), 80,
         hostile.check_broken),
    case('broken, odd or missing training data',
         'left out and named, or read', len(data.TRAINING), 120,
         data.check_training),
    case('broken evaluation data', 'refused before training, named',
         len(data.EVALUATION), 20, data.check_evaluation),
    case('NaN in a layer, inf in a gradient', 'named; weights stay finite',
         4, 20, numbers.check_all_spoiled),
    case('two processes for one with twice the batch; resumed; tested',
         'the same weights to 1e-13, each image once', 4, 40,
         processes.check_doubled_batch),
    single('batch norms of two processes', 'validated as they are saved', 20,
           processes.check_statistics),
    single('SIGTERM to one of two processes', f'both stop; {EXACT}', 30,
           processes.check_stop),
    case('kill -9 one of two processes', 'the other ends in 30 s', 2, 20,
         processes.check_death),
    case('torchrun: no fault, an error, kill -9',
         'all end, the first error is shown', 3, 60,
         processes.check_torchrun),
    case('FlexibleRunner: DDPStrategy, FSDPStrategy',
         'an epoch each, the same first loss', 2, 40,
         processes.check_flexible),
    case('kill -9 a worker of a data loader', 'one error, no hang', 2, 15,
         soak.check_workers),
    Case('iterations of one training, with validation, workers, EMA',
         'memory and open files stay', 5000, 240, soak.check_soak),
    fuzzed('mutated packed files', 'refused or equal', 20_000, 60,
           fuzz.fuzz_packed),
    fuzzed('mutated checkpoints', 'refused or read', 10_000, 60,
           fuzz.fuzz_checkpoints),
    fuzzed('mutated weights for the converter', 'refused or converted',
           70_000, 120, fuzz.fuzz_converter),
]
