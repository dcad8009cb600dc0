import pytest
import torch

from experiments.benchmark import (
    Benchmark,
    Models,
    inference,
    measure_inference,
    measure_memory,
)
from experiments.benchmark.inference import cases_of


def test_cases():
    assert cases_of([1, 4], [32, 64]) == [(1, 32), (4, 32), (1, 64)]


def test_larger_inputs_have_fewer_rounds(small):
    report = Benchmark('small', 1, 8)
    models = Models(small, ['float', 'fast'])
    measure_inference(report, models, [1, 2], [32, 64], 1)
    rounds = {(t.batch, t.size): len(t.seconds) for t in report.timings}
    assert rounds == {(1, 32): 8, (2, 32): 4, (1, 64): 3}
    assert set(report.exponents) == {'float', 'fast'}
    assert set(report.attention_exponents) == {'float', 'fast'}
    assert not any(t.parts for t in report.timings)  # a classifier


@pytest.mark.parametrize('task, parts', [
    ('det', {'backbone', 'neck', 'rpn_head', 'roi_head'}),
    ('seg', {'backbone', 'neck', 'decode_head'}),
])
def test_parts_of_whole_models(task, parts, load):
    report = Benchmark(task, 1, 1)
    models = Models(load(task), ['float', 'fast', 'ann_folded'])
    measure_inference(report, models, [1], [64], 1)
    for timing in report.timings:
        assert set(timing.parts) == parts, timing.name
        assert min(timing.parts.values()) > 0
    for model in models.timed.values():  # nothing is left behind
        for part in parts:
            assert not {'forward', 'predict'} & set(
                vars(getattr(model, part)))


def test_memory_grows_with_the_image(small, monkeypatch):
    monkeypatch.setattr(inference, 'MEMORY_RUNNERS', ('float', ))
    report = Benchmark('small', 1, 1)
    measure_memory(report, small, 1, [256, 1024])
    found = report.memory['float']
    # 16 times the pixels: at least 8 times the memory.
    assert found[1024] > 8 * max(found[256], 1.)
    assert 0.5 < report.memory_exponents['float'] < 1.5


def test_gradients_are_off(small, monkeypatch):
    seen = []
    models = Models(small, ['float'])
    monkeypatch.setattr(models, 'runners', lambda *_: dict(
        float=lambda: seen.append(torch.is_grad_enabled())))
    measure_inference(Benchmark('small', 1, 2), models, [1], [32], 1)
    assert seen == [False] * 3
