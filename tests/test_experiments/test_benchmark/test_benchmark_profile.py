import torch

from experiments.benchmark import Benchmark, Models, profile_inference
from experiments.benchmark.profile import time_by_operation
from experiments.benchmark.tables import profile_table


def test_operations_of_one_call():
    x = torch.randn(256, 256)
    calls = []

    def run():
        calls.append(1)
        return (x @ x).relu()

    found = time_by_operation(run, rounds=5)
    assert len(calls) == 6  # one before
    assert found['aten::mm'] > found['aten::matmul'] > 0
    assert 'aten::clamp_min' in found or 'aten::relu' in found


def test_the_fast_form_multiplies_integers(small):
    report = Benchmark('small', 1, 1)
    profile_inference(report, Models(small, ['float', 'fast', 'ann']), 1, 32)
    ms = report.profile['inference']['ms']
    assert set(ms) == {'float', 'fast', 'ann'}
    assert 'onednn::qconv2d_pointwise' in ms['fast']
    assert not any('onednn' in key for key in ms['ann'])


def test_what_is_small_is_summed_up():
    table = profile_table('inference', dict(batch=1, size=8, ms=dict(
        fast=dict(a=97., b=1., c=2.), ann=dict(a=49.5, b=.5))))
    cells = list(zip(*(column.cells for column in table.columns)))
    assert cells == [('`a`', '97.0', '49.5'), ('`c`', '2.0', ''),
                     ('others', '1.0', '0.5'), ('sum', '100.0', '50.0')]
