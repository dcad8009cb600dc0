import time

import pytest
from torch import nn

from experiments.benchmark.parts import timed_parts


class Slow(nn.Module):

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self):
        time.sleep(self.seconds)

    predict = forward


class Model(nn.Module):

    def __init__(self):
        super().__init__()
        self.backbone, self.neck = Slow(.02), None
        self.bbox_head = Slow(.04)

    def forward(self):
        self.backbone()
        self.backbone()
        self.bbox_head.predict()


def test_each_part_has_its_time():
    model = Model()
    with timed_parts(model, 'wall') as seconds:
        model()
    assert set(seconds) == {'backbone', 'bbox_head'}
    assert min(seconds.values()) >= .04  # slept: never less
    assert 'forward' not in vars(model.backbone)


def test_an_error_leaves_nothing_behind():
    model = Model()
    with pytest.raises(RuntimeError, match='inside'):
        with timed_parts(model, 'wall'):
            raise RuntimeError('inside')
    assert 'predict' not in vars(model.bbox_head)
