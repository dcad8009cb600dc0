"""Trainings of seconds, each in a process of its own that can be killed."""

import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmqsdt.checkpoints import atomic
from mmqsdt.checkpoints.read import read_checkpoint
from mmqsdt.utils.build import build_model

ROOT = Path(__file__).parents[2]
PATIENCE = 240  # seconds, after which a process counts as hung
PARTS = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers',
         'mmqsdt')
# Three epochs of three iterations, or four iterations. drop_path draws from
# torch's random numbers, the augmentation from NumPy's.
_EPOCHS = """
train_cfg = dict(max_epochs=3, val_interval=1)
train_dataloader = dict(batch_size=8)
model = dict(backbone=dict(drop_path_rate=0.2))
default_hooks = dict(logger=dict(interval=1))
"""
_ITERATIONS = """
train_cfg = dict(max_iters=4, val_interval=2)
train_dataloader = dict(batch_size=2)
model = dict(backbone=dict(drop_path_rate=0.2))
default_hooks = dict(
    checkpoint=dict(interval=2), logger=dict(interval=1))
"""
_WORKERS = """
train_dataloader = dict(num_workers=2, persistent_workers=True)
val_dataloader = dict(num_workers=1, persistent_workers=True)
"""
_EMA = """
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
"""
# Saved within epochs, and the best of all, of which each new one is better.
_INSIDE = """
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=2), logger=dict(interval=1))
"""
_BEST = """
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
default_hooks = dict(
    checkpoint=dict(save_best='accuracy/top1', max_keep_ckpts=1),
    logger=dict(interval=1))
"""
_FGD = """
custom_hooks = [dict(
    type='mmqsdt.FGDistillHook', teacher={teacher!r}, checkpoint={weights!r},
    interval=2)]
"""
# name -> (shipped config, what is put on top, its last checkpoint)
SETTINGS = {
    'epochs': ('cls/qsdt_digits', _EPOCHS, 'epoch_3.pth'),
    'epochs_ema': ('cls/qsdt_digits', _EPOCHS + _EMA, 'epoch_3.pth'),
    'epochs_fgd': ('cls/qsdt_digits', _EPOCHS + _FGD, 'epoch_3.pth'),
    'epochs_inside': ('cls/qsdt_digits', _EPOCHS + _INSIDE, 'iter_9.pth'),
    'epochs_best': ('cls/qsdt_digits', _EPOCHS + _BEST, 'epoch_3.pth'),
    'iterations': ('seg/qsdt_fpn_digits', _ITERATIONS, 'iter_4.pth'),
    'iterations_ema': ('seg/qsdt_fpn_digits', _ITERATIONS + _EMA,
                       'iter_4.pth'),
    'epochs_workers': ('cls/qsdt_digits', None, 'epoch_3.pth'),
    'iterations_workers': ('seg/qsdt_fpn_digits', None, 'iter_4.pth'),
}


def prepare(folder: Path) -> None:
    """Write four scenes and two pictures of each digit to data/digits."""
    from mmqsdt.data import prepare_digits
    prepare_digits(folder / 'data/digits', num_train=4, num_val=2,
                   progress=False)
    for split, keep in (('train', 2), ('val', 1)):
        for digit in (folder / 'data/digits/cls' / split).iterdir():
            for picture in sorted(digit.iterdir())[keep:]:
                picture.unlink()
    teacher = ROOT / 'configs/cls/qsdt-ann_digits.py'
    torch.manual_seed(0)
    torch.save(build_model(Config.fromfile(teacher)).state_dict(),
               folder / 'teacher.pth')
    for name, (config, text, _) in SETTINGS.items():
        base = str(ROOT / f'configs/{config}.py')
        if text is None:
            base, text = f'{name.split("_")[0]}.py', _WORKERS
        if '{' in text:
            text = text.format(teacher=str(teacher), weights='teacher.pth')
        (folder / f'{name}.py').write_text(f'_base_ = [{base!r}]\n{text}')


def start(folder: Path, tool: str, *args: str,
          inject: Callable[[], None] | None = None) -> int:
    """Run a tool in a child of this process.

    Args:
        folder (Path): Where; its output goes to log.txt there.
        tool (str): Such as 'train.py'.
        args: Its arguments.
        inject (Callable, optional): Called in the child first.

    Returns:
        int: The id of the process.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(folder)
        log = os.open('log.txt', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        # A test runner has put its own in place.
        sys.stdout = sys.stderr = os.fdopen(1, 'w', 1, closefd=False)
        # As in a process of its own, not one of a test runner.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler if number ==
                          signal.SIGINT else signal.SIG_DFL)
        sys.argv = [tool, *map(str, args)]
        if inject is not None:
            inject()
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
        if not isinstance(code, int):
            print(stop.code)
            code = 1
    except BaseException:  # a child must never become a second test runner
        # A data loader's handler would raise while this is printed.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def finish(child: int, patience: float = PATIENCE) -> int | str:
    """Wait for a process.

    Returns:
        int | str: 0, its error, or 128 + the signal that ended it; 'hung'
        if it had to be killed after ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 'hung'
        time.sleep(0.02)
    code = os.waitstatus_to_exitcode(status[1])
    return code if code >= 0 else 128 - code


def run(folder: Path, tool: str, *args: str, inject=None) -> int | str:
    """Start a tool and wait for it."""
    return finish(start(folder, tool, *args, inject=inject))


def train(folder: Path, setting: str, work_dir: str, *more: str,
          inject=None) -> int | str:
    """Train one of the settings; ``more`` are other arguments."""
    return run(folder, 'train.py', f'{setting}.py', '--work-dir', work_dir,
               *more, inject=inject)


def log_of(folder: Path) -> str:
    return (folder / 'log.txt').read_text(errors='replace')


# Faults ---------------------------------------------------------------------
def send_at(number: int, point: str, iteration: int) -> Callable[[], None]:
    """Signal this process when a hook point of mmengine is reached.

    Args:
        number (int): The signal.
        point (str): 'before_train_iter', 'after_val_iter', ...
        iteration (int): Iterations done by then.
    """

    def inject() -> None:
        call = Runner.call_hook
        sent = []

        def call_hook(runner, name: str, **kwargs) -> None:
            if name == point and runner.iter == iteration and not sent:
                sent.append(os.kill(os.getpid(), number))
            call(runner, name, **kwargs)

        Runner.call_hook = call_hook

    return inject


def kill_while_writing(moment: str, which: int) -> Callable[[], None]:
    """Kill -9 this process in the middle of writing a file.

    Args:
        moment (str): 'half' of the data are written, or before 'fsync' or
            'replace'.
        which (int): The how-manieth file; checkpoints and last_checkpoint
            take turns.
    """

    def inject() -> None:
        count = [0]

        def die_if_due() -> None:
            count[0] += 1
            if count[0] == which:
                os.kill(os.getpid(), signal.SIGKILL)

        if moment == 'half':

            class Half:

                def __init__(self, file) -> None:
                    self.file = file

                def __enter__(self):
                    self.file.__enter__()
                    return self

                def __exit__(self, *args):
                    return self.file.__exit__(*args)

                def write(self, data: bytes) -> None:
                    self.file.write(data[:len(data) // 2])
                    self.file.flush()
                    die_if_due()
                    self.file.write(data[len(data) // 2:])

                def __getattr__(self, name: str):
                    return getattr(self.file, name)

            atomic.open = lambda *args: Half(open(*args))
            return
        real = getattr(os, moment)

        def dying(*args):
            if moment == 'replace' or os.path.isfile(
                    f'/proc/self/fd/{args[0]}'):
                die_if_due()
            return real(*args)

        setattr(os, moment, dying)

    return inject


def better_each_time() -> None:
    """Have every validation of this process find a higher top-1."""
    call = Runner.call_hook

    def call_hook(runner, name: str, **kwargs) -> None:
        if name == 'after_val_epoch':
            kwargs['metrics']['accuracy/top1'] = float(runner.epoch)
        call(runner, name, **kwargs)

    Runner.call_hook = call_hook


# Comparing ------------------------------------------------------------------
def differences(a: object, b: object, where: str = '') -> list[str]:
    """List where two nests of tensors and plain data differ, bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        found = [f'{where}.{k}' for k in a.keys() ^ b.keys()]
        for key in a.keys() & b.keys():
            found += differences(a[key], b[key], f'{where}.{key}')
        return found
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        found = [f'{where}: lengths'] if len(a) != len(b) else []
        for i, pair in enumerate(zip(a, b)):
            found += differences(*pair, f'{where}.{i}')
        return found
    return [] if a == b else [f'{where}: {a!r}, {b!r}'[:200]]


def compare(first: Path, second: Path) -> list[str]:
    """List the differences of two checkpoints that matter to a training."""
    a, b = map(read_checkpoint, (first, second))
    found = [k for k in PARTS if (k in a) != (k in b)]
    for key in PARTS:
        found += differences(a.get(key), b.get(key), key)
    return found + differences(
        [a['meta'][k] for k in ('epoch', 'iter', 'seed')],
        [b['meta'][k] for k in ('epoch', 'iter', 'seed')], 'meta')
