"""Train one model in two processes over gloo, and end them in many ways."""

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from math import isfinite
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from mmqsdt.checkpoints.read import read_checkpoint
from mmqsdt.utils.build import build_model

from .budget import Budget
from .training import (
    PATIENCE,
    ROOT,
    compare,
    log_of,
    run,
    send_at,
    start,
)

# Gradients are compared, so nothing else may differ: no augmentation, frozen
# statistics, and an optimizer that is linear in the gradient. In float64 no
# rounding changes a spike count. Two images in each of two processes are a
# batch of four: two epochs of two iterations.
_EXACT = """
_base_ = [{base!r}]
custom_imports = dict(imports=['mmqsdt', 'experiments.torture.float64'])
model = dict(backbone=dict(norm_eval=True))
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        indices=[0, 2, 5, 7, 9, 11, 13, 15],
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
val_dataloader = dict(batch_size=2, dataset=dict(indices=9))
test_dataloader = dict(batch_size=2, dataset=dict(indices=9))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    clip_grad=dict(max_norm=35.),
    optimizer=dict(type='SGD', lr=0.5, momentum=0.9))
param_scheduler = []
load_from = 'student.pth'
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1))
custom_hooks = [
    dict(type='mmqsdt.FGDistillHook', teacher={teacher!r},
         checkpoint='settled_teacher.pth'),
    dict(type='mmqsdt.SpikeMonitorHook', interval=2, window=1)
]
"""
# Rounding of sums in float64 that are added in another order: about a hundred
# roundings of values up to 1, of 2e-16 each.
TOLERANCE = 1e-13
# For faults: as in the shipped config, with moving statistics and Adam.
_SHORT = """
_base_ = [{base!r}]
train_dataloader = dict(batch_size=2)
val_dataloader = dict(batch_size=2, dataset=dict(indices=9))
test_dataloader = dict(batch_size=2, dataset=dict(indices=9))
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
"""


def settle(config: str, path: Path) -> None:
    """Give a model random weights, and batch norms that know their inputs.

    With norms frozen at their initial statistics, hardly a spike would reach
    the deeper layers.
    """
    torch.manual_seed(0)
    model = build_model(Config.fromfile(config))
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            norm.momentum = None  # average over all batches
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 32, 32), mode='tensor')
    torch.save(dict(state_dict=model.state_dict()), path)


def write_configs(folder: Path) -> None:
    """Write exact.py and short.py, and weights to start from."""
    base = str(ROOT / 'configs/cls/qsdt_digits.py')
    teacher = str(ROOT / 'configs/cls/qsdt-ann_digits.py')
    settle(base, folder / 'student.pth')
    settle(teacher, folder / 'settled_teacher.pth')
    (folder / 'exact.py').write_text(
        _EXACT.format(base=base, teacher=teacher))
    (folder / 'short.py').write_text(_SHORT.format(base=base))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def become(rank: int, port: int, inject: Callable[[int], None] | None
           ) -> None:
    """Set what torchrun sets in a process that it starts."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    log = os.open(f'log{rank}.txt', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if inject is not None:
        inject(rank)


def run_two(folder: Path, tool: str, *args: str,
            inject: Callable[[int], None] | None = None
            ) -> list[tuple[int, float]]:
    """Run a tool in two processes that know of each other.

    Args:
        folder (Path): Where; output goes to log0.txt and log1.txt there.
        tool (str): Such as 'train.py'.
        args: Its arguments.
        inject (Callable, optional): Called first, in each, with its rank.

    Returns:
        list: Of each rank its code, as that of a shell, and when it ended,
        time.monotonic(). The code is 'hung' after PATIENCE seconds.
    """
    port = free_port()
    children = [
        start(folder, tool, *args, '--launcher', 'pytorch',
              inject=partial(become, rank, port, inject))
        for rank in range(2)
    ]
    ended: dict[int, tuple] = {}
    deadline = time.monotonic() + PATIENCE
    while len(ended) < 2:
        late = time.monotonic() > deadline
        for rank, child in enumerate(children):
            if rank in ended:
                continue
            if late:
                os.kill(child, signal.SIGKILL)
            done, status = os.waitpid(child, 0 if late else os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                code = 'hung' if late else code if code >= 0 else 128 - code
                ended[rank] = (code, time.monotonic())
        time.sleep(0.05)
    return [ended[0], ended[1]]


def train_two(folder: Path, config: str, work_dir: str, *more: str,
              inject: Callable[[int], None] | None = None) -> list[str]:
    """Train with two processes; what went wrong."""
    codes = [code for code, _ in run_two(
        folder, 'train.py', config, '--work-dir', work_dir, *more,
        inject=inject)]
    return [] if codes == [0, 0] else [
        f'{config}: the processes ended with {codes}: '
        f'{(folder / "log0.txt").read_text()[-800:]}'
    ]


def run_one(folder: Path, tool: str, *args: str) -> list[str]:
    """Run a tool in one process; what went wrong."""
    code = run(folder, tool, *args)
    return [f'{tool}: {log_of(folder)[-800:]}'] if code else []


def scores(work_dir: Path) -> list[dict]:
    """Return the scores of the validations of a work dir."""
    lines = [json.loads(line)
             for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
             for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if '/top' in k}
            for line in lines if 'accuracy/top1' in line]


def furthest(first: Path, second: Path) -> tuple[float, float]:
    """Return the largest difference of weights, and of step sizes."""
    a, b = (read_checkpoint(p)['state_dict'] for p in (first, second))
    if a.keys() != b.keys():
        raise ValueError(f'other keys: {a.keys() ^ b.keys()}')
    apart = {k: float((a[k].double() - b[k].double()).abs().max())
             for k in a}
    return max(apart.values()), max(
        v for k, v in apart.items() if k.endswith('step_size'))


def check_doubled_batch(folder: Path, budget: Budget | None = None
                        ) -> tuple[int, list[str]]:
    """Compare one process of twice the batch with two, also resumed.

    With FGD, SpikeMonitorHook and channels_last; and a test of nine images,
    of which a sampler gives one process five and the other four and a
    repeated one.
    """
    write_configs(folder)
    wrong = run_one(folder, 'train.py', 'exact.py', '--work-dir', 'one',
                    '--cfg-options', 'train_dataloader.batch_size=4')
    wrong += train_two(folder, 'exact.py', 'two')
    if wrong:
        return 1, wrong
    one, two = folder / 'one', folder / 'two'
    apart, steps = furthest(one / 'epoch_2.pth', two / 'epoch_2.pth')
    moved, steps_moved = furthest(one / 'epoch_1.pth', one / 'epoch_2.pth')
    if budget is not None:
        budget.figures.append(
            f'weights moved by {moved:.1e}, {apart:.1e} apart; step sizes '
            f'by {steps_moved:.1e}, {steps:.1e}')
    if not (moved > 1e-4 and steps_moved > 1e-6):
        wrong.append(f'nothing was trained: {moved}, {steps_moved}')
    if not apart <= TOLERANCE:
        wrong.append(f'weights {apart}, step sizes {steps} apart; they moved '
                     f'by {moved} and {steps_moved}')
    if scores(one) != scores(two) or not scores(one):
        wrong.append(f'validation: {scores(one)} and {scores(two)}')
    return 4, wrong + check_resume(folder) + check_counting(folder)


def check_resume(folder: Path) -> list[str]:
    """Check that two processes resume exactly from their first epoch."""
    (folder / 'again').mkdir()
    shutil.copy(folder / 'two/epoch_1.pth', folder / 'again')
    (folder / 'again/last_checkpoint').write_text('again/epoch_1.pth')
    return train_two(folder, 'exact.py', 'again', '--resume') or compare(
        folder / 'two/epoch_2.pth', folder / 'again/epoch_2.pth')


def check_counting(folder: Path) -> list[str]:
    """Check that two processes count each of nine images once."""
    ended = run_two(folder, 'test.py', 'exact.py', 'two/epoch_2.pth',
                    '--work-dir', 'tested', '--out', 'out.pkl')
    log = (folder / 'log0.txt').read_text()
    if [code for code, _ in ended] != [0, 0]:
        return [f'test: {ended}: {log[-800:]}']
    with open(folder / 'out.pkl', 'rb') as file:
        paths = [x['img_path'] for x in pickle.load(file)]  # our own file
    wrong = []
    if len(paths) != 9 or len(set(paths)) != 9:
        wrong.append(f'{len(paths)} results of {len(set(paths))} images')
    if log.count('checkpoint: ') != 1 or 'checkpoint: ' in \
            (folder / 'log1.txt').read_text():
        wrong.append('the result was not printed once')
    return wrong


def check_statistics(folder: Path) -> tuple[int, list[str]]:
    """Check that all processes validate the network in the checkpoint."""
    write_configs(folder)
    wrong = train_two(folder, 'short.py', 'moving', inject=keep_statistics)
    wrong = wrong or run_one(folder, 'test.py', 'short.py',
                             'moving/epoch_1.pth', '--work-dir', 'moving')
    if wrong:
        return 1, wrong
    statistics = [torch.load(folder / f'statistics{i}.pt') for i in range(2)]
    if not torch.equal(*statistics):
        wrong.append('the processes have other batch norm statistics')
    during, after = scores(folder / 'moving')[-1], None
    for path in (folder / 'moving').glob('*/*.json'):
        after = json.loads(path.read_text())
    if after is None or any(after[k] != during[k] for k in during):
        wrong.append(f'validation {during}, test of the checkpoint {after}')
    return 1, wrong


def keep_statistics(rank: int) -> None:
    """Write down what this process has in memory when it has trained."""
    call = Runner.call_hook

    def call_hook(runner, name: str, **kwargs) -> None:
        if name == 'after_train':
            torch.save(
                torch.cat([b.double().flatten()
                           for b in runner.model.buffers()]),
                f'statistics{rank}.pt')
        call(runner, name, **kwargs)

    Runner.call_hook = call_hook


def check_death(folder: Path, victims: tuple[int, ...] = (0, 1),
                seconds: float = 30.,
                budget: Budget | None = None) -> tuple[int, list[str]]:
    """Kill -9 either process: the other must end by itself, with an error.

    Args:
        victims (tuple[int]): The ranks to kill, one after the other.
        seconds (float): How long the other may take.
    """
    write_configs(folder)
    budget, wrong, waits = budget or Budget(), [], []
    for victim in budget.each(victims):

        def inject(rank: int, victim: int = victim) -> None:
            if rank == victim:
                send_at(signal.SIGKILL, 'before_train_iter', 2)()

        ended = run_two(folder, 'train.py', 'short.py', '--work-dir',
                        f'killed{victim}', inject=inject)
        code, when = ended[1 - victim]
        waited = when - ended[victim][1]
        log = (folder / f'log{1 - victim}.txt').read_text()
        if ended[victim][0] != 137 or code in (0, 'hung') or \
                waited > seconds:
            wrong.append(f'killed {victim}: {ended[victim][0]}, the other '
                         f'ended with {code}, {waited:.1f} s later: '
                         f'{log[-300:]}')
        waits.append(waited)
    budget.figures.append(f'{max(waits):.1f} s at most')
    return budget.done, wrong


def check_stop(folder: Path) -> tuple[int, list[str]]:
    """Send SIGTERM to one process: both save, stop, and resume exactly."""
    write_configs(folder)
    wrong = train_two(folder, 'short.py', 'whole')

    def inject(rank: int) -> None:
        if rank == 1:
            send_at(signal.SIGTERM, 'before_train_iter', 2)()

    codes = [code for code, _ in run_two(
        folder, 'train.py', 'short.py', '--work-dir', 'stopped',
        inject=inject)]
    if codes != [143, 143]:
        wrong.append(f'SIGTERM: ended with {codes}')
    wrong += train_two(folder, 'short.py', 'stopped', '--resume')
    return 1, wrong or compare(folder / 'whole/epoch_1.pth',
                               folder / 'stopped/epoch_1.pth')


_FAULT = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Fault(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 2:
            {what}
"""


def check_torchrun(folder: Path, names: tuple[str, ...] = (
        'none', 'raised', 'killed'), budget: Budget | None = None
                   ) -> tuple[int, list[str]]:
    """Check that torchrun trains, and reports what happened first.

    Args:
        names (tuple[str]): Of the faults.
    """
    write_configs(folder)
    budget, wrong = budget or Budget(), []
    faults = {
        'none': ('pass', []),
        'raised': ("raise RuntimeError('no more data on this node')",
                   ['no more data on this node']),
        'killed': ('os.kill(os.getpid(), signal.SIGKILL)',
                   ['Signal 9 (SIGKILL)']),
    }
    for name in budget.each(names):
        what, words = faults[name]
        (folder / f'fault_{name}.py').write_text(_FAULT.format(what=what))
        (folder / f'{name}.py').write_text(
            "_base_ = ['short.py']\n"
            f"custom_imports = dict(imports=['mmqsdt', 'fault_{name}'])\n"
            "custom_hooks = [dict(type='Fault')]\n")
        code, said = torchrun(
            folder, str(ROOT / 'tools/train.py'), f'{name}.py', '--launcher',
            'pytorch', '--work-dir', f'run_{name}')
        report = said.split('Root Cause (first observed failure)')[-1]
        if bool(code) != bool(words) or \
                not all(w in report for w in words) or \
                (words and 'rank      : 1' not in report):
            wrong.append(f'{name}: ended with {code}: {said[-1500:]}')
    return budget.done, wrong


def check_flexible(folder: Path, strategies: tuple[str, ...] = ('ddp', 'fsdp'),
                   budget: Budget | None = None) -> tuple[int, list[str]]:
    """Train an epoch and validate with mmengine's FlexibleRunner."""
    write_configs(folder)
    # A sharded parameter has no value to start a learned threshold from.
    (folder / 'short.py').write_text(_SHORT.format(
        base=str(ROOT / 'configs/cls/qsdt-published_digits.py')))
    budget, wrong, losses = budget or Budget(), [], []
    for name in budget.each(strategies):
        work_dir = folder / name
        code, said = torchrun(folder, '-m', 'experiments.torture.flexible',
                              'short.py', name, str(work_dir))
        lines = [json.loads(line)
                 for path in work_dir.glob('*/vis_data/scalars.json')
                 for line in path.read_text().splitlines()]
        losses += [line['loss'] for line in lines if 'loss' in line][:1]
        if code or not scores(work_dir) or not all(map(isfinite, losses)):
            wrong.append(f'{name}: ended with {code}: {said[-1500:]}')
    # Of the same weights and images, before rounding makes spikes differ.
    if not wrong and max(losses) - min(losses) > 1e-4:
        wrong.append(f'other losses in the first iteration: {losses}')
    return budget.done, wrong


def torchrun(folder: Path, *command: str) -> tuple[int | str, str]:
    """Run a program in two processes of torchrun.

    Returns:
        tuple: Its code, 'hung' if it had to be killed; and what it said on
        stderr.
    """
    child = subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone',
         '--nproc-per-node', '2', *command],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env=dict(
            os.environ, PYTHONPATH=f'{ROOT}:{folder}'))
    try:
        _, said = child.communicate(timeout=PATIENCE)
        return child.returncode, said
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # its workers too
        return 'hung', child.communicate()[1]
