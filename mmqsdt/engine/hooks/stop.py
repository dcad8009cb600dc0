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
    """On SIGTERM or SIGINT, save a checkpoint and leave.

    The iteration is finished first. The process ends with 128 + the number
    of the signal, as a shell would say it: 143 for SIGTERM, 130 for SIGINT.
    A second signal ends it at once, as if there were no hook.

    A validation whose checkpoint is saved is not finished, but made up for
    when the training is resumed.
    """

    priority = 'LOWEST'  # after all that an iteration still does
    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._received = 0
        self._before: dict = {}

    def before_train(self, runner) -> None:
        """Listen."""
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
            return  # Ctrl-C reaches children too; their parent sees to it
        self._received = number
        for each in self.signals:
            signal.signal(each, signal.SIG_DFL)

    def after_train(self, runner) -> None:
        """Leave the signals as they were."""
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
        """Stop here, if nothing but the validation is lost."""
        hook = self._checkpoint_hook(runner)
        # Only where averaged weights are not swapped in and nothing waits.
        if runner.world_size == 1 and self._received and hook is not None \
                and hook.saved_iteration == runner.iter:
            self._stop(runner, runner.iter)

    def after_val(self, runner) -> None:
        """Give the model its own weights back."""
        if self._all_stop(runner):
            self._stop(runner, runner.iter)

    def _all_stop(self, runner) -> bool:
        """Whether any process was told to stop: all do, together."""
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
                                  'not saved for want of a '
                                  'ReliableCheckpointHook')
        else:
            path = hook.save_interrupted(runner, done)
            runner.logger.warning(
                f'{name}: stopped after iteration {done}, saved in {path}. '
                'To go on: the same command with --resume')
        raise SystemExit(128 + self._received)


@cache
def _watch_forks() -> None:
    """Have SIGTERM end the children of a training, such as an evaluation's.

    That is how a pool ends its processes, and it waits for their end. Python
    drops signals for its own handlers that reach a child before it is set
    up, so until then SIGTERM is held back.
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
