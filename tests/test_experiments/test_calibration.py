"""The table of calibrated networks: its configs, its runs, its lines."""

import json

import pytest
from mmengine.config import Config

from experiments import calibration
from experiments.calibration import (
    SETTINGS,
    TASKS,
    Runs,
    run_task,
    shortened,
    table,
    with_setting,
)
from mmqsdt.utils.configs import find_config


def config(task: str) -> Config:
    return Config.fromfile(find_config(TASKS[task]))


def units(part: dict) -> list[dict]:
    """All that has neurons, in a config of a model."""
    found = [part] if 'weight_bits' in part else []
    for value in part.values():
        if isinstance(value, dict):
            found += units(value)
    return found


@pytest.mark.parametrize('task', TASKS)
def test_a_setting_is_that_of_the_whole_network(task):
    cfg = config(task)
    found = units(with_setting(cfg, 8, 15).model)
    assert len(found) >= 2
    for unit in found:
        assert unit.weight_bits == 8
        assert unit.neuron == dict(
            type='mmqsdt.IELIF', threshold='learned', levels=15)
    assert cfg.model == config(task).model


def test_a_tenth_of_the_training():
    cfg = config('seg')
    short = shortened(cfg)
    assert short.train_cfg.max_iters == cfg.train_cfg.max_iters // 10
    assert short.param_scheduler[-1].end == short.train_cfg.max_iters
    assert short.optim_wrapper.optimizer.lr == \
        cfg.optim_wrapper.optimizer.lr / 4


def test_runs_that_are_known_are_not_repeated(tmp_path, monkeypatch):
    calls = []

    def measure(name):
        def run(*args):
            calls.append(name)
            if len(calls) == 5:
                raise RuntimeError('the power is gone')
            return {'accuracy/top1': 90. + len(calls)}
        return run

    for name in ('train_ann', 'calibrated', 'trained'):
        monkeypatch.setattr(calibration, name, measure(name))
    out = tmp_path / 'x.json'
    with pytest.raises(RuntimeError, match='power'):
        run_task('cls', Runs(out), tmp_path)
    assert len(json.loads(out.read_text())['cls']) == 4
    run_task('cls', Runs(out), tmp_path)
    assert len(calls) == 1 + 2 * len(SETTINGS) + 1  # one failed
    assert calls.count('train_ann') == 1


def test_the_table():
    scores = dict(cls={'ann': {'accuracy/top1': 99.},
                       '4 bits, D 8': {'accuracy/top1': 98.125}})
    lines = table(scores).splitlines()
    assert len(lines) == 2 + len(SETTINGS)
    assert lines[3] == '| top-1, % | 4 bits | 8 | 99.00 | 98.12 | not run |'


def test_a_failure_shows_the_end_of_the_log(tmp_path, monkeypatch):
    (tmp_path / 'fails.py').write_text(
        "import sys\nsys.exit(f'no config at {sys.argv[1]}')",
        encoding='utf-8')
    monkeypatch.setattr(calibration, 'TOOLS', tmp_path)
    with pytest.raises(RuntimeError, match='fails failed(.|\n)*at none.py'):
        calibration.run_tool('fails', tmp_path / 'log', 'none.py')
