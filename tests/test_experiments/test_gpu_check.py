"""The check of GPUs, run where it can be: small models, on the CPU."""

import math

import pytest
import torch

from experiments import gpu_check
from experiments.gpu_check import __main__ as tool
from experiments.gpu_check import checks, table
from experiments.gpu_check.checks import CHECKS, SMALL, Setting, Skipped
from experiments.gpu_check.operators import CASES

# Graphs as they are: what breaks or recompiles them is found all the same.
CPU = Setting('cpu', 'eager', SMALL, size=64, batch=1, rounds=1)


# test_compile.py compiles the other.
@pytest.mark.parametrize('name', [n for n in CHECKS if n != 'torch.compile'])
def test_a_check_on_the_cpu(name):
    if name == 'resume' and torch.cuda.is_available():
        pytest.skip('the runner takes the GPU')
    assert CHECKS[name](CPU)


@pytest.mark.cuda
@pytest.mark.parametrize('name', CHECKS)
def test_a_check_on_a_gpu(name):
    try:
        with checks.exact_products():
            assert CHECKS[name](Setting('cuda'))
    except Skipped as reason:
        pytest.skip(str(reason))


def test_what_is_wrong_is_told_and_the_rest_still_runs(monkeypatch, capsys):
    def wrong(setting):
        raise AssertionError('these differ\nand more')

    def skipped(setting):
        raise Skipped('one GPU')

    monkeypatch.setattr(checks, 'CHECKS', dict(
        a=wrong, b=skipped, c=lambda setting: 'equal'))
    found = gpu_check.run_checks(CPU)
    assert [result for result, _ in found.values()] == [
        'FAILED', 'skipped', 'ok']
    printed = capsys.readouterr().out
    assert 'FAILED  a: AssertionError: these differ\n' in printed
    assert 'skipped b: one GPU' in printed


def test_an_operator_that_differs_is_named(monkeypatch):
    inputs, _ = CASES['roi_align']
    results = iter(([torch.zeros(3)], [torch.ones(3)]))
    monkeypatch.setitem(CASES, 'roi_align',
                        (inputs, lambda *args: next(results)))
    with pytest.raises(AssertionError, match='roi_align'):
        gpu_check.checks.compare_operators('cpu')


@pytest.mark.parametrize('model, train, half, compiled', [
    ('backbone', False, False, True), ('backbone', True, True, False),
    ('Mask R-CNN', True, False, False), ('Mask R-CNN', False, False, False)])
def test_a_row_of_the_table(model, train, half, compiled):
    row = table.measure_row(CPU, model, train, half, compiled)
    assert row.ms > 0 and row.ann_ms > 0 and math.isnan(row.mib)
    cells = table.to_table(CPU, [row]).splitlines()[-1].split(' | ')
    assert model in cells[0] and len(cells) == 9


def test_without_a_gpu_it_says_so_and_ends_well(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert tool.main([]) == 0
    printed = capsys.readouterr().out
    assert printed.count('\n') == 1 and 'no GPU' in printed


@pytest.mark.parametrize('result, status', [('ok', 0), ('FAILED', 1)])
def test_the_tool(result, status, monkeypatch, tmp_path):
    row = table.Row('backbone', 'prediction', 'float32', False, 2., 1.,
                    float('nan'), float('nan'))
    monkeypatch.setattr(tool, 'run_checks',
                        lambda setting: dict(all=(result, 'seen')))
    monkeypatch.setattr(tool, 'measure', lambda setting: [row])
    page = tmp_path / 'page.md'
    assert tool.main(['--device', 'cpu', '--page', str(page)]) == status
    assert '| backbone | prediction | float32 | no | 2.0 | 1.0 | 2.00 |' in \
        page.read_text()
