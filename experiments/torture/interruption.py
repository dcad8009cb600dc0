"""Trainings that are ended from outside, and then resumed."""

import os
import random
import resource
import shutil
import signal
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

from mmqsdt.checkpoints.read import load_state_dict

from .budget import Budget
from .training import (
    SETTINGS,
    better_each_time,
    compare,
    differences,
    finish,
    kill_while_writing,
    log_of,
    run,
    send_at,
    start,
    train,
)


def reference(folder: Path, setting: str, inject=None) -> Path:
    """Return the last checkpoint of the setting, never interrupted."""
    path = folder / f'{setting}_whole' / SETTINGS[setting][2]
    if not path.exists():
        code = train(folder, setting, path.parent.name, inject=inject)
        if code:
            raise RuntimeError(log_of(folder)[-2000:])
    return path


def interrupt(folder: Path, setting: str, inject, expected: int
              ) -> list[str]:
    """Break a training off, resume it, compare with the whole one.

    Returns:
        list[str]: What differs, and what else went wrong.
    """
    whole = reference(folder, setting)
    work_dir = folder / 'interrupted'
    shutil.rmtree(work_dir, ignore_errors=True)
    code = train(folder, setting, work_dir.name, inject=inject)
    wrong = []
    if code != expected:
        wrong.append(f'{setting}: ended with {code}, not {expected}: '
                     f'{log_of(folder)[-500:]}')
    if code in (130, 143) and '--resume' not in log_of(folder):
        wrong.append(f'{setting}: it was not said how to resume')
    return wrong + resume(folder, setting, work_dir, whole)


def resume(folder: Path, setting: str, work_dir: Path, whole: Path,
           inject=None) -> list[str]:
    """Resume and compare; nothing half-written may stay."""
    code = train(folder, setting, work_dir.name, '--resume', inject=inject)
    if code:
        return [f'{setting}: resuming ended with {code}: '
                f'{log_of(folder)[-500:]}']
    wrong = [f'{setting}: {each}'
             for each in compare(whole, work_dir / whole.name)]
    return wrong + [f'{p.name} was left' for p in work_dir.glob('*.part')]


def check_signals(folder: Path, setting: str, budget: Budget | None = None
                  ) -> tuple[int, list[str]]:
    """Send SIGTERM and SIGINT in training, kill -9 there and in validation.

    The third SIGTERM comes in the last iteration of an epoch.
    """
    budget = budget or Budget()
    first = 4 if setting.startswith('epochs') else 2
    val = 3 if setting.startswith('epochs') else 2
    faults = [
        (send_at(signal.SIGTERM, 'before_train_iter', first), 143),
        (send_at(signal.SIGINT, 'after_train_iter', first), 130),
        (send_at(signal.SIGKILL, 'after_train_iter', first + 1), 137),
        (send_at(signal.SIGKILL, 'after_val_iter', val), 137),
        (send_at(signal.SIGTERM, 'after_val_iter', val), 143),
        (send_at(signal.SIGTERM, 'before_train_iter', 2 * val - 1), 143),
    ]
    wrong = []
    for inject, code in budget.each(faults):
        wrong += interrupt(folder, setting, inject, code)
    return budget.done, wrong


def check_writing(folder: Path, setting: str = 'epochs_ema',
                  budget: Budget | None = None) -> tuple[int, list[str]]:
    """Kill -9 at each moment of writing a checkpoint and its pointer."""
    budget, wrong = budget or Budget(), []
    for moment, which in budget.each(
            product(('half', 'fsync', 'replace'), (1, 2, 3, 4))):
        wrong += interrupt(folder, setting,
                           kill_while_writing(moment, which), 137)
    return budget.done, wrong


def check_best(folder: Path, budget: Budget | None = None
               ) -> tuple[int, list[str]]:
    """Kill -9 while a better checkpoint replaces the best.

    Each epoch writes five files: its checkpoint and the pointer to it, the
    best, and the first two again, which then know of the best.
    """
    budget, wrong = budget or Budget(), []
    whole = reference(folder, 'epochs_best', better_each_time)
    name = 'best_accuracy_top1_epoch_{}.pth'.format
    work_dir = folder / 'interrupted'
    for moment, which in budget.each(
            [('half', 8), ('replace', 8), ('replace', 9), ('replace', 10)]):

        def inject(moment: str = moment, which: int = which) -> None:
            better_each_time()
            kill_while_writing(moment, which)()

        shutil.rmtree(work_dir, ignore_errors=True)
        code = train(folder, 'epochs_best', work_dir.name, inject=inject)
        best = list(work_dir.glob('best*.pth'))
        for path in best:
            load_state_dict(path)
        if not best:
            wrong.append(f'{moment} {which}: the best was lost')
        if code != 137:
            wrong.append(f'{moment} {which}: ended with {code}')
        wrong += resume(folder, 'epochs_best', work_dir, whole,
                        better_each_time)
        left = sorted(p.name for p in work_dir.glob('*.pth'))
        if left != [name(3), whole.name]:
            wrong.append(f'{left} are there')
        else:
            wrong += differences(*(load_state_dict(p.parent / name(3))
                                   for p in (whole, work_dir / 'x')))
    return budget.done, wrong


def check_any_moment(folder: Path, number: int, setting: str = 'epochs_ema',
                     budget: Budget | None = None) -> tuple[int, list[str]]:
    """Kill -9 one training again and again at random moments."""
    budget = budget or Budget()
    whole = reference(folder, setting)
    work_dir = folder / 'interrupted'
    shutil.rmtree(work_dir, ignore_errors=True)
    started = time.monotonic()
    train(folder, setting, work_dir.name)
    length = time.monotonic() - started
    draw, wrong, killed = random.Random(0), [], 0
    shutil.rmtree(work_dir, ignore_errors=True)
    for _ in budget.each(range(number)):
        child = start(folder, 'train.py', f'{setting}.py', '--work-dir',
                      work_dir.name, '--resume')
        time.sleep(draw.uniform(0.2, 0.9) * length)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        killed += finish(child) == 137
        if (work_dir / whole.name).exists():  # done: from the start
            wrong += resume(folder, setting, work_dir, whole)
            shutil.rmtree(work_dir)
    if work_dir.exists():
        wrong += resume(folder, setting, work_dir, whole)
    return killed, wrong


def check_second_signal(folder: Path) -> tuple[int, list[str]]:
    """Check that a second SIGTERM ends the process at once."""

    def inject() -> None:
        send_at(signal.SIGTERM, 'before_train_iter', 1)()
        send_at(signal.SIGTERM, 'after_train_iter', 1)()

    work_dir = folder / 'interrupted'
    shutil.rmtree(work_dir, ignore_errors=True)
    code = train(folder, 'epochs', work_dir.name, inject=inject)
    wrong = [] if code == 143 and not (work_dir / 'interrupted.pth').exists() \
        else [f'ended with {code} after saving']
    return 1, wrong


def check_full_disk(folder: Path) -> tuple[int, list[str]]:
    """Limit files to 1 MB: the second checkpoint fails."""
    whole = reference(folder, 'epochs')
    work_dir = folder / 'interrupted'
    shutil.rmtree(work_dir, ignore_errors=True)
    train(folder, 'epochs', work_dir.name,
          inject=send_at(signal.SIGKILL, 'before_train_iter', 4))

    def inject() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    code = train(folder, 'epochs', work_dir.name, '--resume', inject=inject)
    log, wrong = log_of(folder), []
    if code != 1 or 'Traceback' in log or 'could not be saved' not in log \
            or 'epoch_1.pth' not in log.splitlines()[-1]:
        wrong.append(f'ended with {code}: {log[-500:]}')
    if sorted(p.name for p in work_dir.glob('*.pt*')) != ['epoch_1.pth']:
        wrong.append(f'left: {sorted(p.name for p in work_dir.iterdir())}')
    return 1, wrong + resume(folder, 'epochs', work_dir, whole)


def check_corrupt(folder: Path, budget: Budget | None = None
                  ) -> tuple[int, list[str]]:
    """Spoil the last checkpoint on the disk; the one before it serves."""
    budget = budget or Budget()
    whole = reference(folder, 'epochs')
    source = whole.parent
    changes = {
        'cut': lambda b: b[:len(b) // 2],
        'empty': lambda b: b'',
        'one bit': lambda b: b[:len(b) // 2] + bytes(
            [b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1:],
        'zeros': lambda b: bytes(len(b)),
        'all': None
    }
    wrong = []
    work_dir = folder / 'interrupted'
    for name, change in budget.each(changes.items()):
        shutil.rmtree(work_dir, ignore_errors=True)
        shutil.copytree(source, work_dir)
        if name == 'all':
            wrong += resume_from_nothing(folder, work_dir)
            continue
        last = work_dir / whole.name
        last.write_bytes(change(last.read_bytes()))
        wrong += [f'{name}: {each}'
                  for each in resume(folder, 'epochs', work_dir, whole)]
        log = log_of(folder)
        if 'SKIPPED' not in log or 'epoch_2.pth instead' not in log:
            wrong.append(f'{name}: no warning')
    return budget.done, wrong


def resume_from_nothing(folder: Path, work_dir: Path) -> list[str]:
    """Spoil all checkpoints: one error, and no new training."""
    for path in work_dir.glob('*.pth'):
        path.write_bytes(b'')
    # As a training in this folder leaves it, not one in another.
    (work_dir / 'last_checkpoint').write_text(f'{work_dir.name}/epoch_3.pth')
    code = run(folder, 'train.py', 'epochs.py', '--work-dir', work_dir.name,
               '--resume')
    if code != 1 or 'none of the 3 checkpoints' not in log_of(folder):
        return [f'all spoilt: ended with {code}']
    return []


def check_same_seed(folder: Path, budget: Budget | None = None
                    ) -> tuple[int, list[str]]:
    """Run the same seed twice, with and without worker processes."""
    budget, wrong = budget or Budget(), []
    for setting in budget.each(('epochs', 'iterations_workers')):
        whole = reference(folder, setting)
        work_dir = folder / 'again'
        shutil.rmtree(work_dir, ignore_errors=True)
        train(folder, setting, work_dir.name)
        wrong += compare(whole, work_dir / whole.name)
    return budget.done, wrong
