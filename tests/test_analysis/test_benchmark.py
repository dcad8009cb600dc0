import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmqsdt.analysis import benchmark
from mmqsdt.analysis.benchmark import (
    TITLES,
    TRAINING_TITLES,
    Benchmark,
    Models,
    Timing,
    alternate,
    counterpart_config,
    fitted_exponent,
    fold_norms,
)
from mmqsdt.layers import SpikingNeuron
from mmqsdt.models import QSDTransformer

ROOT = Path(__file__).parents[2]
ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(1, 1), num_heads=2)
CONFIGS = dict(
    cls='cls/qsdt_digits', det='det/qsdt_maskrcnn_digits',
    seg='seg/qsdt_fpn_digits')


def load(task):
    package = dict(cls='mmpretrain', det='mmdet', seg='mmseg')[task]
    pytest.importorskip(f'{package}.models')
    cfg = Config.fromfile(ROOT / f'configs/{CONFIGS[task]}.py')
    return cfg


def report(**medians):
    timings = [Timing(n, 2, 64, [ms / 1e3] * 3) for n, ms in medians.items()]
    return Benchmark('name', 1, 3, timings=timings)


def test_speedup_is_over_the_best_counterpart():
    r = report(fast=10., ann=50., ann_folded=30.)
    assert r.baseline(2, 64).name == 'ann_folded'
    assert r.speedup(r.timings[0]) == pytest.approx(3.)
    assert r.timings[0].throughput == pytest.approx(200.)
    assert np.isnan(report(fast=10.).speedup(r.timings[0]))


def test_exponent_of_a_power_law():
    amounts = np.array([10., 20., 80.])
    assert fitted_exponent(amounts, 3 * amounts**1.5) == pytest.approx(1.5)


def test_runners_take_turns():
    order = []
    seconds = alternate(
        dict(a=lambda: order.append('a'), b=lambda: order.append('b')), 3, 1)
    assert ''.join(order) == 'ab' + 'ab' * 3
    assert [len(s) for s in seconds.values()] == [3, 3]


@pytest.mark.parametrize('task', CONFIGS)
def test_the_counterpart_has_no_neuron_and_float_weights(task):
    cfg = load(task)
    other = benchmark.build_model(counterpart_config(cfg))
    assert not any(isinstance(m, SpikingNeuron) for m in other.modules())
    assert not any(getattr(m, 'bits', None) for m in other.modules())
    assert any(isinstance(m, SpikingNeuron)
               for m in benchmark.build_model(cfg).modules())


@pytest.mark.parametrize('options', [
    dict(weight_bits=None, neuron=dict(type='ReLU')),
    dict(weight_bits=None, neuron=dict(type='ReLU'), inner_neurons=True),
    dict()
], ids=str)
def test_folded_norms_change_no_output(options):
    model = QSDTransformer(ARCH, **options).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=.3)
            torch.nn.init.uniform_(module.running_var, .5, 2.)
            torch.nn.init.normal_(module.bias, std=.3)
    model = model.double()
    folded = fold_norms(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d)
                   for m in folded.modules())
    x = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    with torch.no_grad():
        # The same operations in another order, in float64.
        torch.testing.assert_close(
            folded(x), model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('task', CONFIGS)
def test_runners_of_whole_models(task, monkeypatch):
    cfg = load(task)
    monkeypatch.setattr(benchmark.shutil, 'which', lambda _: None)
    names = ['float', 'fast', 'ann', 'ann_folded', 'ann_compiled']
    models = Models(cfg, names)
    with torch.no_grad():
        runners = models.runners(1, 64)
        outs = {name: run() for name, run in runners.items()}
    assert set(runners) == set(names) - {'ann_compiled'}
    assert 'compiler' in models.skipped['ann_compiled'] or task != 'cls'
    if task != 'det':
        torch.testing.assert_close(  # float32, another order
            outs['ann_folded'], outs['ann'], rtol=1e-4, atol=1e-4)


def test_the_tool(tmp_path, monkeypatch, capsys):
    load('cls')
    monkeypatch.setattr(sys, 'argv', [
        'benchmark.py', str(ROOT / 'configs/cls/qsdt_digits.py'),
        '--runners', 'float', 'fast', 'ann', 'ann_folded', '--sizes', '32',
        '64', '--batches', '1', '2', '--rounds', '2', '--warmup', '1',
        '--train', '2', '--threads', '1', '--work-dir', str(tmp_path)
    ])
    runpy.run_path(str(ROOT / 'tools/benchmark.py'), run_name='__main__')
    data = json.loads((tmp_path / 'benchmark.json').read_text())
    assert len(data['timings']) == 3 * 4
    assert all(len(t['seconds']) == 2 and t['median_ms'] > 0
               for t in data['timings'])
    assert data['threads'] == 1 and set(data['exponents']) == {
        'float', 'fast', 'ann', 'ann_folded'}
    assert min(data['training']['peak_mib'].values()) > 50
    assert (tmp_path / 'benchmark.png').stat().st_size > 5000
    assert set(data['training']['median_ms']) == set(TRAINING_TITLES)
    printed = capsys.readouterr().out
    assert all(TRAINING_TITLES[n] in printed for n in TRAINING_TITLES)
    assert '<= 1.10' in printed and '<= 0.75' in printed
    assert all(TITLES[n] in printed for n in ('float', 'fast', 'ann'))


def test_memory_is_that_of_a_fresh_process():
    ballast = torch.ones(2**28)  # 1 GiB that no child has
    with benchmark.get_context('spawn').Pool(1) as pool:
        cfg = load('cls')
        cfg.model.backbone.arch = ARCH
        cfg.model.head.in_channels = 16
        small = pool.apply(benchmark.peak_memory, ('integers', cfg, 1, 32))
    assert small < 1024 and len(ballast)


def test_the_tool_refuses_no_rounds(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', 'x', '--rounds', '0'])
    with pytest.raises(SystemExit, match='at least 1'):
        runpy.run_path(str(ROOT / 'tools/benchmark.py'), run_name='__main__')
