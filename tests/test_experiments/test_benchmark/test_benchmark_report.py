import json

import numpy as np
import pytest

from experiments.benchmark import (
    Benchmark,
    Goal,
    Timing,
    fitted_exponent,
    goals,
)


def report(config='name', batch=2, size=64, **medians):
    timings = [Timing(n, batch, size, [ms / 1e3] * 3)
               for n, ms in medians.items()]
    return Benchmark(config, 1, 3, timings=timings)


def test_speedup_is_over_the_best_counterpart():
    r = report(fast=10., ann=50., ann_folded=30.)
    assert r.baseline(2, 64).name == 'ann_folded'
    assert r.speedup(r.timings[0]) == pytest.approx(3.)
    assert r.timings[0].throughput == pytest.approx(200.)
    assert np.isnan(report(fast=10.).speedup(r.timings[0]))


def test_exponent_of_a_power_law():
    amounts = np.array([10., 20., 80.])
    assert fitted_exponent(amounts, 3 * amounts**1.5) == pytest.approx(1.5)


@pytest.mark.parametrize('figure, at_least, met', [
    (1.9, True, False), (2., True, True), (2.1, True, True),
    (1.9, False, True), (2., False, True), (2.1, False, False)
])
def test_a_goal_is_met_at_its_bound(figure, at_least, met):
    assert Goal('it', figure, 2., at_least).met is met


def test_goals_of_inference():
    r = report(fast=10., onnx=20., ann=90., ann_onnx=30.)
    found = {g.what: (g.figure, g.met) for g in goals(r)}
    assert found == {
        'fast form, speed over the best ANN, batch 2, 64 x 64':
            (pytest.approx(3.), True),
        'ONNX Runtime, integers over floats, batch 2, 64 x 64':
            (pytest.approx(1.5), False),
    }


def test_the_goal_in_ms_is_of_one_model_and_size():
    times = dict(fast=31., ann=90.)
    both = [report('qsdt_imagenet', 1, 224, **times),
            report('qsdt_imagenet', 1, 320, **times)]
    in_ms = [[g for g in goals(r) if g.unit == 'ms'] for r in both]
    assert [len(found) for found in in_ms] == [1, 0]
    assert in_ms[0][0].figure == pytest.approx(31.) and not in_ms[0][0].met


@pytest.mark.parametrize('has_amx', [True, False])
def test_goals_of_training_and_scale(has_amx):
    """That of bfloat16 is one for processors that multiply it."""
    r = report()
    r.machine = 'a processor (amx_bf16)' if has_amx else 'another (avx2)'
    r.training = dict(
        median_ms=dict(model=110., bfloat16=55., ann=100.),
        peak_mib=dict(model=101., bfloat16=1., ann=100.))
    r.exponents = dict(float=1., fast=1.2, ann=3.)
    r.attention_exponents = dict(fast=1.05)
    found = {g.what: (round(g.figure, 6), g.met) for g in goals(r)}
    bfloat16 = {'training step, fp32 over bfloat16': (2., True)}
    assert found == {
        **(bfloat16 if has_amx else {}),
        'training step, time over ANN': (1.1, True),
        'training step, peak memory over ANN': (1.01, False),
        'exponent of time against pixels, float': (1., True),
        'exponent of time against pixels, fast': (1.2, False),
        'exponent of time against tokens, attention, fast': (1.05, True),
    }


def test_the_json_has_goals_and_all_rounds(tmp_path):
    r = report(fast=10., ann=30.)
    r.write_json(tmp_path / 'r.json')
    data = json.loads((tmp_path / 'r.json').read_text())
    assert data['timings'][0]['seconds'] == [0.01] * 3
    assert data['timings'][0]['speedup'] == pytest.approx(3.)
    assert [g['met'] for g in data['goals']] == [True]
