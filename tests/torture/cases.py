"""All cases, by name: what ``make torture`` runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import fuzz, hostile, interruption, numbers, processes, soak


@dataclass
class Case:
    """Faults of one kind.

    Attributes:
        fault (str): What is injected.
        promise (str): What must not be lost.
        run (Callable): Given a folder with the digits, injects the faults;
            returns how many, and every breach of the promise.
    """
    fault: str
    promise: str
    run: Callable[[Path], tuple[int, list[str]]]


EXACT = 'resumed bit for bit'


def spoiled(folder: Path) -> tuple[int, list[str]]:
    wrong = [
        each for what in ('layer', 'gradient') for policy in ('stop', 'skip')
        for each in numbers.check_spoiled(folder, what, policy)
    ]
    return 4, wrong


def counted(result: tuple[int, list[str]],
            number: int) -> tuple[int, list[str]]:
    return number, result[1]


CASES = [
    *(Case(f'SIGTERM, SIGINT, kill -9: {setting}', EXACT,
           lambda folder, setting=setting: interruption.check_signals(
               folder, setting))
      for setting in ('epochs_ema', 'epochs_fgd', 'epochs_workers',
                      'iterations_ema', 'iterations_workers')),
    Case('kill -9 while a checkpoint is written', EXACT,
         interruption.check_writing),
    Case('kill -9 at any moment', EXACT,
         lambda folder: interruption.check_any_moment(folder, 10)),
    Case('second SIGTERM', 'stops at once', interruption.check_second_signal),
    Case('disk full', 'clear error, last checkpoint stays',
         interruption.check_full_disk),
    Case('corrupt last checkpoint', 'the one before it, with a warning',
         interruption.check_corrupt),
    Case('the same seed again', 'equal bit for bit',
         interruption.check_same_seed),
    Case('code in a checkpoint', 'never executed', hostile.check_hostile),
    Case('broken checkpoint', 'one clear error', hostile.check_broken),
    Case('mutated packed files', 'refused or equal',
         lambda folder: counted(fuzz.fuzz_packed(folder, 20_000), 20_000)),
    Case('mutated checkpoints', 'refused or read',
         lambda folder: counted(fuzz.fuzz_checkpoints(folder, 10_000),
                                10_000)),
    Case('mutated weights for the converter', 'refused or converted',
         lambda folder: counted(fuzz.fuzz_converter(70_000), 70_000)),
    Case('NaN in a layer, inf in a gradient', 'named; weights stay finite',
         spoiled),
    Case('two processes for one with twice the batch',
         'the same weights to 1e-13', processes.check_doubled_batch),
    Case('batch norms of two processes', 'validated as they are saved',
         processes.check_statistics),
    Case('SIGTERM to one of two processes', EXACT, processes.check_stop),
    Case('kill -9 one of two processes', 'the other ends in 30 s',
         processes.check_death),
    Case('torchrun: an error, kill -9', 'the first error is shown',
         processes.check_torchrun),
    Case('kill -9 a worker of a data loader', 'one error, no hang',
         soak.check_workers),
    Case('5,000 iterations', 'memory and open files stay',
         soak.check_soak),
]
