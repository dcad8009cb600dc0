"""Batches too small for a norm are refused before a step, or survived."""

import logging

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmqsdt.engine.batches import check_batches
from mmqsdt.engine.hooks import SmallBatchHook


class Model(BaseModel):
    """A conv, a norm over its pooled output, and a loss."""

    def __init__(self, norm: nn.Module, pool: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(pool) if pool else nn.Identity()
        self.norm = norm
        self.sizes = []

    def forward(self, x, mode='loss'):
        self.sizes.append(len(x))
        return dict(loss=self.norm(self.pool(self.conv(x))).pow(2).mean())


def collate(batch: list) -> dict:
    return dict(x=torch.stack(batch))


def make_runner(folder, images, batch_size, norm=None, pool=1, by_epoch=True,
                sampler='DefaultSampler', sizes=(8, ), hooks=(), **loader):
    make_runner.count += 1
    data = [torch.rand(3, sizes[i % len(sizes)], sizes[i % len(sizes)])
            for i in range(images)]
    return Runner(
        Model(norm or nn.BatchNorm2d(4), pool), str(folder),
        train_dataloader=dict(
            dataset=data, batch_size=batch_size, collate_fn=collate,
            sampler=dict(type=sampler, shuffle=False), **loader),
        train_cfg=dict(by_epoch=True, max_epochs=2) if by_epoch else
        dict(by_epoch=False, max_iters=4),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        custom_hooks=[SmallBatchHook(), *hooks],
        default_hooks=dict(checkpoint=None),
        experiment_name=f'small_batch_{make_runner.count}')


make_runner.count = 0


class Stopwatch(Hook):
    """Counts the steps."""
    done = 0

    def after_train_iter(self, *args, **kwargs) -> None:
        self.done += 1


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('images, size, words', [
    (4, 1, 'train_dataloader.batch_size=2'),
    (5, 2, r'5 images in batches of 2.*drop_last=True.*batch_size=3\)'),
    (5, 4, r'drop_last=True.*batch_size=5\)'),
    (1, 3, 'Use more images'),
])
def test_one_value_a_channel_is_refused_before_the_first_step(
        tmp_path, images, size, words, by_epoch):
    steps = Stopwatch()
    runner = make_runner(tmp_path, images, size, by_epoch=by_epoch,
                         hooks=[steps])
    with pytest.raises(ValueError, match=f'norm is a batch norm.*{words}'):
        runner.train()
    assert steps.done == 0


class Pairs(torch.utils.data.BatchSampler):
    """As mmdet's AspectRatioBatchSampler: a batch sampler of its own."""


def test_the_remedy_names_a_batch_sampler(tmp_path):
    from mmengine.registry import DATA_SAMPLERS
    DATA_SAMPLERS.register_module(module=Pairs, force=True)
    options = dict(type='Pairs', drop_last=False)
    with pytest.raises(ValueError, match=r'batch_sampler\.drop_last=True'):
        make_runner(tmp_path, 5, 2, batch_sampler=options).train()
    make_runner(tmp_path, 5, 2,
                batch_sampler=dict(options, drop_last=True)).train()


class Frozen(nn.BatchNorm2d):
    """As those of a backbone with norm_eval=True."""

    def train(self, mode: bool = True):
        return super().train(False)


@pytest.mark.parametrize('images, size, norm, options', [
    (5, 2, nn.BatchNorm2d(4), dict(drop_last=True)),
    (5, 2, nn.BatchNorm2d(4), dict(sampler='InfiniteSampler',
                                   by_epoch=False)),
    (5, 3, nn.BatchNorm2d(4), {}),
    (5, 2, nn.BatchNorm2d(4), dict(pool=2)),
    (5, 2, Frozen(4), {}),
    (5, 1, nn.GroupNorm(2, 4), {}),
])
def test_all_else_trains(tmp_path, images, size, norm, options):
    steps = Stopwatch()
    make_runner(tmp_path, images, size, norm, hooks=[steps],
                **options).train()
    assert steps.done >= 4
    assert not norm._forward_pre_hooks and not norm._forward_hooks


def test_an_instance_norm_of_one_pixel_is_refused(tmp_path):
    with pytest.raises(ValueError, match='norm is an instance norm.*1x1'):
        make_runner(tmp_path, 4, 2, nn.InstanceNorm2d(4)).train()


def test_a_later_small_image_does_not_end_a_training(tmp_path, monkeypatch):
    """Of five images in pairs, the last is alone, and of three pixels."""
    norm, steps, lines = nn.BatchNorm2d(4), Stopwatch(), []
    runner = make_runner(tmp_path, 5, 2, norm, pool=0, hooks=[steps],
                         sizes=(8, 8, 8, 8, 3))
    monkeypatch.setattr(
        MMLogger.get_current_instance(), 'callHandlers',
        lambda record: lines.append(record.getMessage())
        if record.levelno == logging.WARNING else None)
    seen = []
    norm.register_forward_hook(
        lambda module, args, out: seen.append(module.training))
    runner.train()
    assert steps.done == 6
    assert seen == [True, True, False] * 2 and norm.training
    assert norm.num_batches_tracked == 4
    assert sum('one value per channel at norm' in line for line in lines) == 1
    assert all(torch.isfinite(x).all() for x in norm.state_dict().values())


@pytest.mark.parametrize('images, size, options, words', [
    (0, 2, {}, 'train_dataloader: the data set is empty.*filter_empty_gt'),
    (3, 4, dict(drop_last=True),
     'train_dataloader gives no batch: 3 images do not fill a batch of 4'),
])
def test_a_training_of_nothing_is_refused(tmp_path, images, size, options,
                                          words):
    runner = make_runner(tmp_path, images, size, **options)
    with pytest.raises(ValueError, match=words):
        check_batches(runner)


def test_data_are_built_once(tmp_path):
    runner = make_runner(tmp_path, 4, 2, pool=2)
    check_batches(runner)
    loader = runner.train_dataloader
    runner.train()
    assert runner.train_dataloader is loader
