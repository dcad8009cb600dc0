"""A resumed training says which of its new settings have no effect."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmqsdt.engine.hooks import ReliableCheckpointHook


class Model(BaseModel):
    """A linear layer and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x, mode='loss'):
        return dict(loss=self.fc(x).square().mean()) \
            if mode == 'loss' else [self.fc(x)]


def collate(batch: list) -> dict:
    return dict(x=torch.stack(batch))


SGD = dict(type='SGD', lr=0.1, momentum=0.9)
COSINE = dict(type='CosineAnnealingLR', T_max=2, eta_min=0.01)
LOADER = dict(
    dataset=[torch.rand(3) for _ in range(4)], batch_size=2,
    collate_fn=collate, sampler=dict(type='DefaultSampler', shuffle=False))


def run(folder, length=2, optimizer=SGD, schedule=(COSINE, ), by_epoch=True,
        resume=None, lines=None, validate=False, wrapper={}) -> Runner:
    run.count += 1
    schedule = [dict(s, by_epoch=by_epoch, end=s.get('end', s.get('T_max')))
                for s in schedule]
    more = dict(val_dataloader=LOADER, val_cfg=dict(), val_evaluator=dict(
        type='DumpResults', out_file_path=f'{folder}/x.pkl')) \
        if validate else {}
    runner = Runner(
        Model(), str(folder), train_dataloader=LOADER,
        train_cfg=dict(by_epoch=True, max_epochs=length) if by_epoch else
        dict(by_epoch=False, max_iters=length),
        optim_wrapper=dict(optimizer=optimizer, **wrapper),
        param_scheduler=schedule,
        default_hooks=dict(checkpoint=ReliableCheckpointHook(
            1, by_epoch=by_epoch)),
        load_from=resume, resume=resume is not None,
        experiment_name=f'resumed_{run.count}', **more)
    with pytest.MonkeyPatch.context() as patch:
        if lines is not None:
            patch.setattr(
                MMLogger.get_current_instance(), 'callHandlers',
                lambda record: lines.append((record.levelno,
                                             record.getMessage())))
        runner.train()
    return runner


run.count = 0


def warnings_of(lines: list) -> list[str]:
    return [text for level, text in lines if level == logging.WARNING]


@pytest.fixture(params=[True, False], ids=['epochs', 'iterations'])
def by_epoch(request):
    return request.param


def last(folder, by_epoch: bool) -> str:
    return str(folder / ('epoch_2.pth' if by_epoch else 'iter_2.pth'))


@pytest.mark.parametrize('change, said', [
    (dict(optimizer=dict(SGD, lr=0.2)), ['lr: 0.2 in the config, 0.1 in']),
    (dict(optimizer=dict(SGD, momentum=0.5, weight_decay=0.1)),
     ['momentum: 0.5 in the config, 0.9 in',
      'weight_decay: 0.1 in the config, 0 in']),
    (dict(optimizer=dict(SGD, lr=0.2), wrapper=dict(paramwise_cfg=dict(
        bias_lr_mult=0.5))), None),
    (dict(schedule=(dict(COSINE, T_max=4), )),
     ['CosineAnnealingLR.T_max: 4 in the config, 2 in',
      'CosineAnnealingLR.end: 4 in the config, 2 in']),
    (dict(schedule=(COSINE, dict(type='ConstantLR', factor=1., end=3))),
     ['number of schedulers: 2 in the config, 1 in']),
    (dict(), []),
])
def test_each_setting_is_named_once(tmp_path, by_epoch, change, said):
    rate = run(tmp_path, by_epoch=by_epoch).optim_wrapper.get_lr()
    path, lines = last(tmp_path, by_epoch), []
    if said is None:  # other groups: torch says it
        with pytest.raises(ValueError, match='parameter group'):
            run(tmp_path, 4, by_epoch=by_epoch, resume=path, **change)
        return
    runner = run(tmp_path, 4, by_epoch=by_epoch, resume=path, lines=lines,
                 **change)
    (text, ) = [x for x in warnings_of(lines) if 'no effect' in x]
    # That of a longer training comes last; it is always one here.
    found = text.split('\n  ')[1:-1]
    assert len(found) == len(said) + 1
    assert all(a.startswith(b) for a, b in zip(found, said))
    assert found[-1].startswith('a longer training')
    assert f'load_from={path}' in text and 'leave out --resume' in text
    # And it is true.
    assert runner.optim_wrapper.get_lr() == rate
    group = runner.optim_wrapper.optimizer.param_groups[0]
    assert (group['momentum'], group['weight_decay']) == (0.9, 0)


def test_the_same_settings_need_no_word(tmp_path, by_epoch):
    run(tmp_path, by_epoch=by_epoch, length=4,
        schedule=(dict(COSINE, T_max=4), ))
    lines = []
    run(tmp_path, by_epoch=by_epoch, length=4, lines=lines,
        schedule=(dict(COSINE, T_max=4), ), resume=last(tmp_path, by_epoch))
    assert not any('no effect' in x for x in warnings_of(lines))


def test_a_constant_rate_behind_a_warmup_needs_no_word(tmp_path, by_epoch):
    warmup = dict(type='LinearLR', start_factor=0.1, end=1)
    run(tmp_path, by_epoch=by_epoch, schedule=(warmup, ))
    lines = []
    run(tmp_path, 4, by_epoch=by_epoch, schedule=(warmup, ), lines=lines,
        resume=last(tmp_path, by_epoch))
    assert not any('no effect' in x for x in warnings_of(lines))


@pytest.mark.parametrize('other', [
    dict(type='AdamW', lr=0.1), dict(type='RMSprop', lr=0.1)])
def test_another_kind_of_optimizer_is_refused(tmp_path, other):
    run(tmp_path)
    with pytest.raises(ValueError, match='another kind of optimizer'):
        run(tmp_path, 4, optimizer=other, resume=last(tmp_path, True))


def test_a_finished_training_was_not_interrupted(tmp_path, by_epoch):
    run(tmp_path, by_epoch=by_epoch, validate=True)
    lines = []
    run(tmp_path, by_epoch=by_epoch, validate=True, lines=lines,
        resume=last(tmp_path, by_epoch))
    name = 'max_epochs' if by_epoch else 'max_iters'
    assert any('Nothing is left to train: the checkpoint was saved after '
               f'{name}=2' in x for x in warnings_of(lines))
    assert not any('interrupt' in text for _, text in lines)
