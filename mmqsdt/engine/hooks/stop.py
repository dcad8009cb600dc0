"""SIGTERM and Ctrl-C: finish the iteration, save, stop."""

import os
import signal
import threading
from functools import cache

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook

from ...registry import HOOKS
from .checkpoint_hook import ReliableCheckpointHook


@HOOKS.register_module()
class StopSignalHook(Hook):
    """On SIGTERM or SIGINT, save a checkpoint and end the process.

    The iteration is finished first. The exit status is 128 + the number of
    the signal, as is usual in shells: 143 for SIGTERM, 130 for SIGINT. A
    second signal ends the process at once, as without this hook.

    A validation whose checkpoint is already saved is broken off, and done
    when the training is resumed.
    """

    priority = 'LOWEST'  # after all other hooks of an iteration
    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._received = 0
        self._before: dict = {}

    def before_train(self, runner) -> None:
        """Listen for the signals."""
        self._received = 0
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._receive)
                for number in self.signals
            }
            _watch_forks()

    def _receive(self, number: int, frame) -> None:
        if os.getpid() != self._process:
            return  # Ctrl-C reaches child processes too; the parent ends them
        self._received = number
        for each in self.signals:
            signal.signal(each, signal.SIG_DFL)

    def after_train(self, runner) -> None:
        """Restore the former signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        """Stop here, unless gradients are still being accumulated."""
        wrapper = runner.optim_wrapper
        count = getattr(wrapper, '_inner_count', 0)
        if count % getattr(wrapper, '_accumulative_counts', 1) == 0 and \
                self._all_stop(runner):
            self._stop(runner, runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None,
                       outputs=None) -> None:
        """Stop here, if only the validation is lost."""
        hook = self._checkpoint_hook(runner)
        # Other processes would wait for this one.
        if runner.world_size == 1 and self._received and hook is not None \
                and hook.saved_iteration == runner.iter:
            self._stop(runner, runner.iter)

    def after_val(self, runner) -> None:
        """Give the model its own weights back."""
        if self._all_stop(runner):
            self._stop(runner, runner.iter)

    def _all_stop(self, runner) -> bool:
        """Tell whether any process got a signal: then all of them stop."""
        if runner.world_size == 1:
            return bool(self._received)
        flag = torch.tensor([self._received])
        all_reduce(flag, 'max')
        self._received = int(flag)
        return bool(self._received)

    @staticmethod
    def _checkpoint_hook(runner) -> ReliableCheckpointHook | None:
        return next((hook for hook in runner.hooks
                     if isinstance(hook, ReliableCheckpointHook)), None)

    def _stop(self, runner, done: int) -> None:
        name = signal.Signals(self._received).name
        hook = self._checkpoint_hook(runner)
        if hook is None:
            runner.logger.warning(f'{name}: stopped after iteration {done}, '
                                  'not saved, as there is no '
                                  'ReliableCheckpointHook')
        else:
            path = hook.save_interrupted(runner, done)
            runner.logger.warning(
                f'{name}: stopped after iteration {done}, saved in {path}. '
                'To continue, run the same command with --resume')
        raise SystemExit(128 + self._received)


@cache
def _watch_forks() -> None:
    """Have SIGTERM end child processes, such as those of an evaluation.

    A pool ends its processes by SIGTERM and waits until they are gone, so
    they must not inherit our handler. Python drops a signal that reaches a
    forked child before its interpreter is set up. So SIGTERM is blocked until
    then.
    """
    term = {signal.SIGTERM}

    def hold() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, term)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, term)

    def release_child() -> None:
        handler = signal.getsignal(signal.SIGTERM)
        if isinstance(getattr(handler, '__self__', None), StopSignalHook):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        release()

    if hasattr(os, 'register_at_fork'):  # not on Windows
        os.register_at_fork(before=hold, after_in_parent=release,
                            after_in_child=release_child)
