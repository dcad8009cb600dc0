import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from experiments.distill_cost import (
    TITLES,
    CostCase,
    DistillCost,
    DistilledStep,
    find_hook,
)
from mmqsdt.utils.frameworks import check_framework

ROOT = Path(__file__).parents[2]
CONFIGS = dict(
    cls='cls/qsdt_fgd_digits', det='det/qsdt_maskrcnn_fgd_digits',
    seg='seg/qsdt_fpn_fgd_digits')


def load(task: str) -> Config:
    cfg = Config.fromfile(ROOT / f'configs/{CONFIGS[task]}.py')
    pytest.importorskip(cfg.default_scope)
    check_framework(cfg)
    hook = find_hook(cfg)
    hook.teacher = str(ROOT / hook.teacher)
    return cfg


def case(tokens: int, own: float) -> CostCase:
    """Medians in s; the mean and the last round are other numbers."""
    medians = dict(plain=1., fgd=1.5, teacher=.25, recording=own / 4,
                   loss=own * 3 / 4)
    return CostCase(64, tokens, {n: [x, x, 9.] for n, x in medians.items()})


def test_ratio_rest_and_exponent():
    assert case(4, .125).ratio == 1.5
    assert case(4, .125).rest == 125.  # 1.5 - 1 - .25 - .125, in ms
    report = DistillCost('name', 1, 1, 3, cases=[case(4, .125)])
    assert report.exponent is None
    report.cases.append(case(16, .25))  # four times the tokens, twice the time
    assert report.exponent == pytest.approx(.5)


@pytest.mark.parametrize('task', CONFIGS)
def test_steps_are_those_with_the_hook_and_without(task):
    steps = DistilledStep(load(task), 2, 64)
    teacher = steps.hook.teacher.backbone
    calls = []
    teacher.register_forward_hook(lambda *args: calls.append(args))
    before = [p.detach().clone() for p in steps.model.backbone.parameters()]
    assert set(steps.step(distilled=True)) == {'loss', 'loss_fgd'}
    assert len(calls) == 1
    assert any(not torch.equal(a, b) for a, b in zip(
        before, steps.model.backbone.parameters()))
    assert set(steps.step(distilled=False)) == {'loss'}
    assert len(calls) == 1

    parts, tokens = steps.parts()
    stride = 16
    assert tokens == pytest.approx(
        sum(g[0] * g[1] for g in parts['recording']().grids) / 4)
    assert 0 < tokens <= (64 // stride)**2
    calls.clear()
    parts['teacher']()
    assert len(calls) == 1
    parts['loss']()
    parts['loss']()  # its graph is made anew
    assert len(calls) == 1


def test_the_tool(tmp_path, monkeypatch, capsys):
    load('cls')
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', [
        'distill_cost.py', 'configs/cls/qsdt_fgd_digits.py', '--sizes', '32',
        '64', '--batch', '2', '--rounds', '2', '--warmup', '0', '--threads',
        '1', '--clock', 'cpu', '--work-dir', str(tmp_path)])
    runpy.run_path(str(ROOT / 'tools/distill_cost.py'), run_name='__main__')
    data = json.loads((tmp_path / 'distill_cost.json').read_text())
    assert [c['tokens'] for c in data['cases']] == [4, 16]
    for entry in data['cases']:
        assert set(entry['seconds']) == set(TITLES)
        assert all(len(s) == 2 for s in entry['seconds'].values())
        assert entry['ratio'] == pytest.approx(
            entry['median_ms']['fgd'] / entry['median_ms']['plain'])
    assert isinstance(data['exponent'], float)
    printed = capsys.readouterr().out
    assert all(title in printed for title in TITLES.values())
    assert '<= 1.60' in printed and 'goal <= 1.00' in printed


@pytest.mark.parametrize('args, message', [
    (['configs/cls/qsdt_digits.py'], 'no FGDistillHook'),
    (['configs/cls/qsdt_fgd_digits.py', '--rounds', '0'], 'at least 1'),
    (['nowhere.py'], 'no config at')])
def test_bad_input_is_refused(args, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', ['distill_cost.py', *args])
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(
            str(ROOT / 'tools/distill_cost.py'), run_name='__main__')
