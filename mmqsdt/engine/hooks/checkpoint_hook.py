"""Checkpoints that survive crashes and resume a training exactly."""

from collections import deque
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor

from ...checkpoints.atomic import PART, AtomicLocalBackend, write_atomically
from ...checkpoints.resume import INTERRUPTED, STATE
from ...registry import HOOKS
from ...utils.build import unwrap
from ..data_order import follow_random_numbers, order_data
from ..random_states import random_states, set_random_states
from ..resumed_settings import overruled_settings, overruled_text


class SavingError(OSError):
    """A checkpoint could not be saved, most often because the disk is full."""

    def __init__(self, path: str, last: str | None, error: OSError) -> None:
        super().__init__(
            f'{path} could not be saved: {error.strerror or error}. The last '
            f'good checkpoint is {last or "none yet"}; free disk space and '
            'continue with --resume')


@HOOKS.register_module()
class ReliableCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, for machines that fail.

    - A file is written under another name and renamed when it is complete.
      Then ``last_checkpoint`` is changed to point to it, and only then an
      older checkpoint, or the former best, is deleted.
    - Random states, the position in the data and whether the validation was
      done are in the checkpoint, so that a resumed training continues as if
      it had never been interrupted.
    - A checkpoint whose weights are not finite is not written.

    Args:
        args, kwargs: Those of mmengine's CheckpointHook. Remote folders
            (``out_dir``, ``backend_args``) are written as their back end
            writes them.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.backend_args is None and self.file_client_args is None and \
                '://' not in str(self.out_dir):
            self.backend_args = dict(backend='atomic-local')
        self._resumed: dict | None = None
        self._validated = self._saved = None  # iterations
        self._epoch_start = self._epoch_iter = 0
        self._states: list[dict] | None = None
        self._former_best: list[str] = []

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep this hook's entry until the training starts."""
        if not runner._resume:
            return
        lines = overruled_settings(runner, checkpoint)
        if lines:
            runner.logger.warning(overruled_text(lines, runner._load_from))
        self._resumed = checkpoint.get(STATE)
        if self._resumed is None:
            runner.logger.warning(
                'The checkpoint has no states of the random numbers: the '
                'training continues, but not bit for bit as it would have '
                'without the interruption.')
        # The file names checkpoints that may be deleted; only accept names
        # of files in our own folder.
        info = checkpoint.get('message_hub', {}).get('runtime_info', {})
        folder = Path(self.out_dir, Path(runner.work_dir).name) \
            if self.out_dir else Path(runner.work_dir)
        for key in [k for k in info if k.startswith('best_ckpt')]:
            if Path(str(info[key])).parent.resolve() != folder.resolve():
                del info[key]
        if not all(isinstance(i, int) for i in info.get('keep_ckpt_ids', [])):
            del info['keep_ckpt_ids']

    def before_train(self, runner) -> None:
        """Take up the training where the checkpoint left it."""
        super().before_train(runner)
        if is_main_process() and isinstance(self.file_backend,
                                            AtomicLocalBackend):
            # Left by a run that was killed while it wrote.
            pointer = Path(runner.work_dir, f'last_checkpoint{PART}')
            for part in [*Path(self.out_dir).glob(f'*.pth{PART}'), pointer]:
                part.unlink(missing_ok=True)
        order_data(runner, self._resumed)
        if runner._resume:
            self._saved, self.last_ckpt = runner.iter, runner._load_from
        if self._resumed is None:
            return
        states = self._resumed['random_states']
        if len(states) == runner.world_size:
            set_random_states(states[runner.rank])
        else:
            runner.logger.warning(
                f'The checkpoint was saved by {len(states)} processes, now '
                f'there are {runner.world_size}: their random numbers begin '
                'anew from the seed.')
        self._validated = self._resumed['validated']
        done, length, name = _progress(runner.train_loop)
        if done >= length:
            runner.logger.warning(
                f'Nothing is left to train: the checkpoint was saved after '
                f'{name}={done}. To train on, set a larger train_cfg.{name}')
        if self._lacks_validation(runner):
            runner.logger.info('The checkpoint was saved before its '
                               'validation, which is done now.')
            runner.val_loop.run()

    def _lacks_validation(self, runner) -> bool:
        loop = runner.train_loop
        if runner.val_loop is None or self._validated == runner.iter or \
                self._resumed['epoch_iter']:
            return False
        done, length, _ = _progress(loop)
        return done >= loop.val_begin and (done % loop.val_interval == 0
                                           or done == length)

    def before_train_epoch(self, runner) -> None:
        """Note where the epoch starts."""
        batches = getattr(runner.train_loop.dataloader, 'batch_sampler', None)
        self._epoch_start = runner.iter - getattr(batches, 'skip', 0)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Note that the data loader has started."""
        follow_random_numbers(runner.train_loop)

    def after_train_epoch(self, runner) -> None:
        """Note it also if all iterations were done before an interruption."""
        follow_random_numbers(runner.train_loop)
        super().after_train_epoch(runner)

    def before_val_epoch(self, runner) -> None:
        """Note that the validation of this iteration is done."""
        self._validated = runner.iter

    def save_interrupted(self, runner, done: int) -> str:
        """Save a training that is about to stop between its checkpoints.

        Args:
            runner (Runner): Between two iterations.
            done (int): Iterations done.

        Returns:
            str: Path of the checkpoint to resume from.
        """
        if self._saved != done:
            self._save(runner, INTERRUPTED,
                       dict(epoch=runner.epoch, iter=done))
        return str(self.last_ckpt)

    @property
    def saved_iteration(self) -> int | None:
        """Iteration of the last checkpoint of this run."""
        return self._saved

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        """Save, then point to the new file, then delete what is too old."""
        # The checkpoint to be saved does not name the former best any more.
        self._delete_former_best(runner)
        stale = []
        if self.max_keep_ckpts > 0 and step not in list(
                self.keep_ckpt_ids)[-1:]:
            steps = [*self.keep_ckpt_ids, step]
            stale = steps[:-self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(steps[-self.max_keep_ckpts:],
                                       self.max_keep_ckpts)
            # The stale ones included: what cannot be deleted now is deleted
            # after a resumption.
            runner.message_hub.update_info('keep_ckpt_ids', steps)
        self._save(runner, self.filename_tmpl.format(step), meta)
        if not is_main_process():
            return
        for name in [INTERRUPTED, *map(self.filename_tmpl.format, stale)]:
            path = self.file_backend.join_path(self.out_dir, name)
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # saved by DeepSpeed
                self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        """Delete the former best once the new one is there, not before."""
        self.file_backend.remove = self._former_best.append
        try:
            super()._save_best_checkpoint(runner, metrics)
        except SavingError:
            raise
        except OSError as error:
            raise SavingError('the best checkpoint', self.last_ckpt,
                              error) from error
        self._delete_former_best(runner)

    def _delete_former_best(self, runner) -> None:
        # Uncovers the method of the class again.
        vars(self.file_backend).pop('remove', None)
        best = [path for key, path in runner.message_hub.runtime_info.items()
                if key.startswith('best_ckpt')]
        for path in self._former_best:
            if path not in best:  # validated again, under the same name
                self.file_backend.remove(path)
        self._former_best.clear()

    def _save(self, runner, filename: str, meta: dict) -> None:
        path = self.file_backend.join_path(self.out_dir, filename)
        last, self.last_ckpt = self.last_ckpt, path
        runner.message_hub.update_info('last_ckpt', path)
        # The runner counts an iteration after the iteration's hooks, but
        # before the hooks of an epoch that ends with it.
        inside = isinstance(runner.train_loop, EpochBasedTrainLoop) and \
            meta['iter'] > runner.iter
        self._epoch_iter = meta['iter'] - self._epoch_start if inside else 0
        self._states = all_gather_object(random_states())
        try:
            runner.save_checkpoint(
                self.out_dir,
                filename,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args)
            if is_main_process():
                write_atomically(
                    Path(runner.work_dir, 'last_checkpoint'),
                    str(path).encode())
        except OSError as error:
            raise SavingError(path, last, error) from error
        self._saved = meta['iter']

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add what a resumption needs; refuse weights that are not finite."""
        model = unwrap(runner.model)
        # Buffers, such as attention masks, may be infinite; weights may not.
        buffers, infinite = {name for name, _ in model.named_buffers()}, []
        for name, value in checkpoint['state_dict'].items():
            if not isinstance(value, Tensor) or torch.isfinite(value).all():
                continue
            if name not in buffers or torch.isnan(value).any():
                raise ValueError(
                    f'{name} is not finite at iteration {runner.iter + 1}: '
                    'no checkpoint is written, the last good one stays')
            infinite.append(name)
        if 'optimizer' in checkpoint:  # missing in "best" checkpoints
            checkpoint[STATE] = dict(
                random_states=self._states or [random_states()],
                validated=self._validated,
                epoch_iter=self._epoch_iter,
                epoch_length=len(runner.train_loop.dataloader),
                infinite=infinite)


def _progress(loop) -> tuple[int, int, str]:
    """Return what is done, what is to be done, and the setting's name."""
    if isinstance(loop, EpochBasedTrainLoop):
        return loop.epoch, loop.max_epochs, 'max_epochs'
    return loop.iter, loop.max_iters, 'max_iters'
