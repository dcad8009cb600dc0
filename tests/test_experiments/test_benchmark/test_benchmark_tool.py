import json
import runpy
import sys
from pathlib import Path

import pytest

from experiments.benchmark import (
    TITLES,
    TRAINING_TITLES,
    inference,
    loading,
    training,
)

ROOT = Path(__file__).parents[3]


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *arguments])
    runpy.run_path(str(ROOT / 'tools/benchmark.py'), run_name='__main__')


def test_the_tool(tmp_path, monkeypatch, capsys):
    pytest.importorskip('mmpretrain.models')
    monkeypatch.setattr(loading, 'IMAGES', 4)
    for module in inference, training:  # a process takes seconds to start
        monkeypatch.setattr(module, 'in_fresh_process',
                            lambda measure, *args: measure(*args))
    run_tool(
        monkeypatch, str(ROOT / 'configs/cls/qsdt_digits.py'), '--runners',
        'float', 'fast', 'ann', 'ann_folded', '--sizes', '32', '64',
        '--batches', '1', '2', '--rounds', '2', '--warmup', '1', '--train',
        '2', '--memory', '--loading', '--profile', '--threads', '1',
        '--work-dir', str(tmp_path), '--page', str(tmp_path / 'page.md'))
    data = json.loads((tmp_path / 'benchmark.json').read_text())
    assert len(data['timings']) == 3 * 4
    assert all(len(t['seconds']) == 2 and t['median_ms'] > 0
               for t in data['timings'])
    assert data['threads'] == 1 and set(data['exponents']) == {
        'float', 'fast', 'ann', 'ann_folded'}
    assert min(data['training']['peak_mib'].values()) > 50
    assert set(data['training']['median_ms']) == set(TRAINING_TITLES)
    assert set(data['memory']) == {'float', 'fast', 'ann_folded'}
    assert len(data['loading']) >= 6
    assert set(data['profile']['inference']['ms']) == {
        'float', 'fast', 'ann', 'ann_folded'}
    assert set(data['profile']['training']['ms']) == {
        'model', 'ann'}
    assert (tmp_path / 'benchmark.png').stat().st_size > 5000
    printed = capsys.readouterr().out
    assert all(TRAINING_TITLES[n] in printed for n in TRAINING_TITLES)
    assert all(TITLES[n] in printed for n in ('float', 'fast', 'ann'))
    page = (tmp_path / 'page.md').read_text()
    assert 'Training step, batch 2, 32 x 32:' in page
    assert page.count('begin of qsdt_digits') == 1
    assert '| `aten::convolution_backward` |' in page


@pytest.mark.parametrize('arguments, message', [
    (('x', '--rounds', '0'), 'at least 1'),
    ((str(ROOT / 'configs/cls/qsdt_cifar10.py'), '--loading'),
     'begins with LoadImageFromFile'),
], ids=str)
def test_what_is_refused_before_anything_is_measured(arguments, message,
                                                     monkeypatch):
    pytest.importorskip('mmpretrain.models')
    with pytest.raises(SystemExit, match=message):
        run_tool(monkeypatch, *arguments)
