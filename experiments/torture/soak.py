"""Long trainings in miniature: does anything grow, and who misses a worker?"""

import json
import os
import re
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.runner import Runner

from .budget import Budget
from .training import PATIENCE, ROOT, finish, log_of, send_at, start

# Twenty iterations an epoch; each validation starts and ends a worker.
_SOAK = """
_base_ = [{base!r}]
model = dict(
    backbone=dict(arch=dict(
        _delete_=True, embed_dims=(4, 8, 8, 8), depths=4)),
    head=dict(in_channels=8))
train_dataloader = dict(
    batch_size=1, num_workers=1, persistent_workers=True)
val_dataloader = dict(
    batch_size=1, num_workers=1, dataset=dict(indices=2))
train_cfg = dict(max_epochs={epochs}, val_interval=3)
param_scheduler = []
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=5, max_keep_ckpts=2))
custom_hooks = [
    dict(type='mmqsdt.SpikeMonitorHook', interval=100),
    dict(type='EMAHook')
]
"""
ITERATIONS_PER_EPOCH = 20
WARM_UP = 0.3  # share of the run in which caches and arenas fill
# MMEngine keeps every logged number of a training, up to a million of each:
# eight names, 16 bytes each, 125 KiB in 1,000 iterations, in arrays that are
# copied to grow. 481 KiB were measured; one small graph that is kept in each
# iteration would be a thousand times as much.
MAX_SLOPE = 1024  # KiB in 1,000 iterations
# Memory is asked for in pieces, some MiB each, which a short run cannot
# average over. A graph that is kept, 1 MiB at least, shows in it all the same.
PIECES = 16 * 1024  # KiB
ENOUGH = 10  # measurements, for a slope
NOTICED = 120  # seconds for the end of a worker to be noticed


def note_use(path: str, interval: int) -> None:
    """Write memory and open files of this process to a file of lines."""
    call = Runner.call_hook
    page = os.sysconf('SC_PAGE_SIZE') // 1024

    def call_hook(runner, name: str, **kwargs) -> None:
        call(runner, name, **kwargs)
        if name == 'after_train_iter' and (runner.iter + 1) % interval == 0:
            with open('/proc/self/statm') as file:
                memory = int(file.read().split()[1]) * page
            use = [runner.iter + 1, memory, len(os.listdir('/proc/self/fd'))]
            with open(path, 'a') as file:
                print(json.dumps(use), file=file)

    Runner.call_hook = call_hook


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def soak(folder: Path, iterations: int, budget: Budget | None = None
         ) -> tuple[dict, list[str]]:
    """Train, validate, save and monitor for many iterations.

    Args:
        folder (Path): With the digits.
        iterations (int): How many.
        budget (Budget, optional): When its time is up the training is asked
            to stop, by SIGTERM, and what it did counts.

    Returns:
        tuple[dict, list[str]]: Iterations 'done', 'slope' of the resident
        memory after warm-up, KiB in 1,000 iterations, 'memory' at the end,
        KiB, and open 'files' after warm-up; and what went wrong.
    """
    budget = budget or Budget()
    (folder / 'soak.py').write_text(_SOAK.format(
        base=str(ROOT / 'configs/cls/qsdt_digits.py'),
        epochs=iterations // ITERATIONS_PER_EPOCH))
    # At one place of an epoch, so that the same workers are alive.
    interval = ITERATIONS_PER_EPOCH * max(1, iterations // 1000)
    child = start(folder, 'train.py', 'soak.py', '--work-dir', 'soak',
                  inject=lambda: note_use('use.txt', interval))
    lines, when = lines_of(folder / 'use.txt'), time.monotonic()
    while not ended(child):
        time.sleep(0.1)
        before, lines = lines, lines_of(folder / 'use.txt')
        if len(lines) > len(before):
            when = time.monotonic()
        elif time.monotonic() - when > PATIENCE:
            os.kill(child, signal.SIGKILL)
        if budget.over and not budget.cut and len(lines) >= ENOUGH:
            budget.cut = True
            os.kill(child, signal.SIGTERM)
    code = finish(child)
    if code != (143 if budget.cut else 0):
        return {}, [f'ended with {code}: {log_of(folder)[-800:]}']
    lines = lines_of(folder / 'use.txt')
    use = np.array([json.loads(line) for line in lines])
    use = use[int(len(use) * WARM_UP):]
    done, memory, files = use.T
    found = dict(
        done=int(done[-1]),
        slope=round(float(np.polyfit(done, memory, 1)[0]) * 1000),
        memory=int(memory[-1]), files=sorted({int(x) for x in files}))
    wrong = []
    if done[-1] != iterations and not budget.cut:
        wrong.append(f'{done[-1]} of {iterations} iterations')
    grown = memory[-1] - memory[0]
    if found['slope'] > MAX_SLOPE and (done[-1] >= 5000 or grown > PIECES):
        wrong.append(f'memory grows: {found}')
    if files[-1] > files[0]:
        wrong.append(f'open files: {files.tolist()}')
    return found, wrong


def check_soak(folder: Path, budget: Budget) -> tuple[int, list[str]]:
    """Train for 5,000 iterations."""
    found, wrong = soak(folder, 5000, budget)
    if found:
        files = ' to '.join(map(str, dict.fromkeys(
            (found['files'][0], found['files'][-1]))))
        budget.figures.append(
            f'{found["slope"] / 1024:+.2f} MiB in 1,000 iterations, '
            f'{found["memory"] / 1024:.0f} MiB in the end; {files} open '
            'files')
    return found.get('done', 0), wrong


def check_workers(folder: Path, points: tuple[str, ...] = (
        'after_train_iter', 'after_val_iter'),
                  budget: Budget | None = None) -> tuple[int, list[str]]:
    """Kill -9 a worker of the training loader and of the validation loader.

    Args:
        points (tuple[str]): When, of mmengine's hook points.
    """
    (folder / 'workers.py').write_text(_SOAK.format(
        base=str(ROOT / 'configs/cls/qsdt_digits.py'), epochs=3))
    budget, wrong = budget or Budget(), []
    for point in budget.each(points):
        iteration = 60 if point == 'after_val_iter' else 3
        code = finish(
            start(folder, 'train.py', 'workers.py', '--work-dir',
                  f'workers_{point}',
                  inject=partial(kill_worker, point, iteration)), NOTICED)
        log = log_of(folder)
        # PyTorch's own message, where its signal comes last of all.
        if code in (0, 'hung') or not re.search(
                r'a worker process of a data loader was lost|'
                r'DataLoader worker \(pid.*killed', log):
            wrong.append(f'{point}: {code}: {log[-500:]}')
    return budget.done, wrong


def kill_worker(point: str, iteration: int) -> None:
    """Kill the last child of this process, a worker, once."""
    real = os.kill

    def kill(pid: int, number: int) -> None:
        with open(f'/proc/self/task/{pid}/children') as file:
            real(int(file.read().split()[-1]), number)

    os.kill = kill  # what send_at calls
    send_at(signal.SIGKILL, point, iteration)()


def ended(child: int) -> bool:
    """Tell whether a process has ended, without waiting for it."""
    return os.waitid(os.P_PID, child,
                     os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
