import errno
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from mmqsdt.checkpoints.resume import STATE, read_resumable
from mmqsdt.engine.hooks import ReliableCheckpointHook
from mmqsdt.engine.hooks.checkpoint_hook import SavingError


class Masked(nn.Linear):
    """A layer with a mask that is infinite by design."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer('mask', torch.full((2, 2), float('-inf')))


class Runner:
    """Saves an empty file for each checkpoint; the disk may be full."""

    world_size, rank, iter, epoch = 1, 0, 0, 0
    _resume, val_loop, full = False, None, False

    def __init__(self, folder: Path) -> None:
        self.work_dir = str(folder / 'work')
        Path(self.work_dir).mkdir()
        self.message_hub = MessageHub('hub of a test')
        self.train_loop = SimpleNamespace(dataloader=[0] * 3)
        self.logger = logging.getLogger('silent')
        self.model = Masked()

    def save_checkpoint(self, out_dir, filename, *args, **kwargs) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        Path(out_dir).mkdir(exist_ok=True)
        Path(out_dir, filename).touch()

    def names(self) -> list[str]:
        return sorted(p.name for p in Path(self.work_dir).glob('*.pth'))


def start(folder: Path, **kwargs) -> tuple[Runner, ReliableCheckpointHook]:
    runner, hook = Runner(folder), ReliableCheckpointHook(1, **kwargs)
    hook.before_train(runner)
    return runner, hook


@pytest.mark.parametrize('metrics', [['acc'], ['acc', 'mIoU']])
def test_the_former_best_stays_until_the_new_one_is_there(tmp_path, metrics):
    runner, hook = start(tmp_path, save_best=metrics)
    runner.epoch = 1
    hook.after_val_epoch(runner, dict.fromkeys(metrics, 0.5))
    first = [f'best_{metric}_epoch_1.pth' for metric in metrics]
    assert runner.names() == first
    hook.after_val_epoch(runner, dict.fromkeys(metrics, 0.4))  # no better
    runner.epoch, runner.full = 2, True
    with pytest.raises(SavingError, match='the best.*No space left'):
        hook.after_val_epoch(runner, dict.fromkeys(metrics, 0.6))
    assert runner.names() == first
    runner.full = False
    hook.after_val_epoch(runner, dict.fromkeys(metrics, 0.7))
    assert runner.names() == [f'best_{m}_epoch_2.pth' for m in metrics]
    # Validated again, as after an interruption: it takes its own place.
    hook.after_val_epoch(runner, dict.fromkeys(metrics, 0.8))
    assert runner.names() == [f'best_{m}_epoch_2.pth' for m in metrics]


def test_what_could_not_be_deleted_is_when_the_training_is_resumed(
        tmp_path, monkeypatch):
    runner, hook = start(tmp_path, max_keep_ckpts=1)
    for epoch in (0, 1):
        runner.epoch = epoch
        if epoch:  # killed before it could delete
            monkeypatch.setattr(hook.file_backend, 'isfile', lambda p: False)
        hook.after_train_epoch(runner)
    assert runner.names() == ['epoch_1.pth', 'epoch_2.pth']
    ReliableCheckpointHook(1, max_keep_ckpts=1).before_train(runner)
    assert runner.names() == ['epoch_2.pth']


@pytest.mark.parametrize('elsewhere', [False, True])
def test_a_checkpoint_cannot_name_files_to_delete(tmp_path, elsewhere):
    out_dir = str(tmp_path / 'out') if elsewhere else None
    hook = ReliableCheckpointHook(1, out_dir=out_dir, save_best='acc')
    runner = Runner(tmp_path)
    runner._resume = True
    own = f'{out_dir}/work' if elsewhere else runner.work_dir
    for info, kept in [
        (dict(best_ckpt=str(tmp_path / 'thesis.tex')), {}),
        (dict(best_ckpt=f'{own}/../thesis.tex'), {}),
        (dict(best_ckpt=f'{own}/best.pth'), dict(best_ckpt=f'{own}/best.pth')),
        (dict(keep_ckpt_ids=[1, '../../thesis']), {}),
        (dict(keep_ckpt_ids=[1, 2]), dict(keep_ckpt_ids=[1, 2])),
    ]:
        hook.after_load_checkpoint(runner, dict(
            message_hub=dict(runtime_info=info), **{STATE: {}}))
        assert info == kept


@pytest.mark.parametrize('elsewhere', [False, True])
def test_half_a_file_of_a_killed_run_is_removed(tmp_path, elsewhere):
    runner = Runner(tmp_path)
    out = tmp_path / 'out/work' if elsewhere else Path(runner.work_dir)
    out.mkdir(parents=True, exist_ok=True)
    for path in (out / 'epoch_1.pth.part',
                 Path(runner.work_dir, 'last_checkpoint.part')):
        path.touch()
    precious = out / 'data.part'
    precious.touch()
    ReliableCheckpointHook(
        1, out_dir=str(out.parent) if elsewhere else None
    ).before_train(runner)
    assert list(tmp_path.rglob('*.part')) == [precious]


def test_masks_may_be_infinite_and_weights_may_not(tmp_path):
    runner, hook = start(tmp_path)
    content = dict(
        state_dict=runner.model.state_dict(), optimizer={}, message_hub={},
        meta=dict(epoch=1, iter=3))
    hook.before_save_checkpoint(runner, content)
    assert content[STATE]['infinite'] == ['mask']
    torch.save(content, tmp_path / 'x.pth')
    read_resumable(str(tmp_path / 'x.pth'))
    for name, value in (('weight', 'inf'), ('weight', 'nan'),
                        ('mask', 'nan')):
        spoilt = dict(content['state_dict'])
        spoilt[name] = torch.full((2, 2), float(value))
        with pytest.raises(ValueError, match=f'{name} is not finite'):
            hook.before_save_checkpoint(
                runner, dict(content, state_dict=spoilt))
