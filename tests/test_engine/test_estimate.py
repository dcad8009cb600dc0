"""What a training takes, known before it starts; and recipes that fit."""

import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from test_configs import load
from torch import nn
from torch.utils.data import DataLoader

from mmqsdt.engine import estimate
from mmqsdt.engine.estimate import (
    Cost,
    announce,
    duration,
    free_memory,
    measure_cost,
    training_size,
)
from mmqsdt.engine.random_states import random_states
from mmqsdt.models import QSDTransformer


def test_what_is_kept_is_counted():
    """By hand: a linear map keeps its input, ReLU its output."""
    class Net(nn.Module):
        in_channels = 3

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return self.conv(x).relu()

    cost = measure_cost(Net())
    assert cost.saved == 4 * (3 + 8)
    assert cost.fixed == 4 * 4 * (3 * 8 + 8)
    assert cost.seconds > 0
    assert cost.memory(10) == cost.fixed + 440


def test_it_leaves_no_trace():
    model = QSDTransformer('tiny', out_indices=(1, 2, 3, 4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    states = random_states()
    small = measure_cost(model)
    assert all(torch.equal(v, before[k])
               for k, v in model.state_dict().items())
    assert torch.equal(states['torch'], random_states()['torch'])
    assert all(p.grad is None for p in model.parameters())
    model.with_cp = True
    assert measure_cost(model).saved < small.saved / 2


@pytest.mark.parametrize('name, size', [
    ('cls/qsdt_imagenet.py', (224, 224)),
    ('cls/qsdt_cifar10.py', (224, 224)),
    ('det/qsdt_maskrcnn_digits.py', (160, 160)),
    ('seg/qsdt_fpn_ade20k.py', (512, 512)),
])
def test_the_size_of_the_images_stands_in_the_config(name, size):
    assert training_size(load(name)) == size


def test_scales_in_proportion():
    height, width = training_size(load('det/qsdt_maskrcnn_coco.py'))
    assert 480 <= height <= 800 and width == height * 4 // 3


@pytest.mark.parametrize('seconds, text', [
    (5, '5 seconds'), (300, '5 minutes'), (5 * 3600, '5 hours'),
    (1e6, '12 days')])
def test_durations(seconds, text):
    assert duration(seconds) == text


def runner(batch: int) -> SimpleNamespace:
    """As far as an estimate asks one."""
    cfg = load('seg/qsdt_fpn_ade20k.py')
    model = nn.Module()
    model.backbone = QSDTransformer('tiny', out_indices=(1, 2, 3, 4))
    return SimpleNamespace(
        cfg=cfg, model=model,
        train_loop=SimpleNamespace(max_iters=1000),
        train_dataloader=DataLoader(range(64), batch_size=batch))


def test_an_estimate_is_one_line(monkeypatch):
    monkeypatch.setattr(estimate, 'free_memory', lambda device: 10**11)
    text = announce(runner(16))
    assert text.startswith('estimate: 1,000 steps of 16 images of 512 x 512 '
                           'pixels; about ')
    assert ' a step, ' in text and '100.0 GB are free' in text
    assert '\n' not in text


def test_a_batch_that_cannot_fit_is_refused(monkeypatch):
    cost = measure_cost(runner(1).model.backbone)
    enough = cost.memory(6 * 512 * 512)
    monkeypatch.setattr(estimate, 'free_memory', lambda device: enough)
    with pytest.raises(ValueError, match='a batch of 16 images of 512 x 512 '
                       r'pixels takes at least .*batch_size=3 optim_wrapper.'
                       'accumulative_counts=6'):
        announce(runner(16))
    assert announce(runner(4))
    monkeypatch.setattr(estimate, 'free_memory', lambda device: cost.fixed)
    with pytest.raises(ValueError, match='Not one image fits'):
        announce(runner(1))


def test_free_memory_is_that_of_the_machine():
    free = free_memory()
    assert free is None or 0 < free < 2**46
    if not sys.platform.startswith('linux'):
        assert free is None


def test_sizes_that_are_not_said_are_not_guessed():
    cfg = Config(dict(model=dict(), train_dataloader=dict(dataset=dict(
        type='X', pipeline=[dict(type='LoadImageFromFile')]))))
    assert training_size(cfg) is None


def test_half_precision_keeps_half(monkeypatch):
    monkeypatch.setattr(estimate, 'free_memory', lambda device: None)
    monkeypatch.setattr(estimate, 'measure_cost',
                        lambda *parts: Cost(1000., 1e-6, 0))
    whole, half = runner(10), runner(10)
    half.cfg.optim_wrapper.type = 'AmpOptimWrapper'
    assert f'{1000 * 10 * 512 * 512 / 1e9:.1f} GB' in announce(whole)
    assert f'{500 * 10 * 512 * 512 / 1e9:.1f} GB' in announce(half)
