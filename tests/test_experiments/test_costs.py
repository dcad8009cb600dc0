"""The table of D, T and bits: its settings, its figures, what is not run."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from experiments import costs
from mmqsdt.layers import IELIF, LSQWeight
from mmqsdt.utils.build import build_model
from mmqsdt.utils.configs import find_config

ROOT = Path(__file__).parents[2]


def run(monkeypatch, *args: object) -> None:
    monkeypatch.setattr(sys, 'argv', ['costs.py', *map(str, args)])
    costs.main()


@pytest.mark.parametrize('task', costs.TASKS)
@pytest.mark.parametrize('setting', [
    costs.Setting('ternary'), costs.Setting(1, 2), costs.Setting(steps=2)],
    ids=str)
def test_a_setting_holds_for_the_whole_model(task, setting):
    framework = dict(cls='mmpretrain', det='mmdet', seg='mmseg')[task]
    pytest.importorskip(f'{framework}.models')
    cfg = Config.fromfile(find_config(costs.TASKS[task]))
    before = cfg.pretty_text
    model = build_model(costs.with_setting(cfg, *setting))
    layers = [m for m in model.modules() if isinstance(m, LSQWeight)]
    neurons = [m for m in model.modules() if isinstance(m, IELIF)]
    assert {layer.bits for layer in layers} == {setting.bits}
    assert {neuron.levels for neuron in neurons} == {setting.levels}
    assert model.backbone.time_steps == setting.steps
    assert all(neuron.learned for neuron in neurons)  # as in the config
    assert cfg.pretty_text == before


def test_the_first_setting_is_the_demo():
    cfg = Config.fromfile(find_config(costs.TASKS['cls']))
    changed = costs.with_setting(cfg, *costs.SETTINGS[0])
    one, other = (build_model(c).state_dict() for c in (cfg, changed))
    assert {k: v.shape for k, v in one.items()} == {
        k: v.shape for k, v in other.items()}
    assert len(set(costs.SETTINGS)) == len(costs.SETTINGS)


def test_figures_of_a_model(tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain.models')
    cfg = costs.with_setting(
        Config.fromfile(find_config(costs.TASKS['cls'])),
        *costs.Setting('ternary'))
    cfg.model.backbone.arch = dict(
        embed_dims=(8, 16, 16, 16), depths=(1, 1), num_heads=2)
    cfg.model.head.in_channels = 16
    path = tmp_path / 'x.pth'
    torch.save(dict(state_dict=build_model(cfg).state_dict()), path)
    samples = import_module('mmpretrain.structures').DataSample
    monkeypatch.setattr(costs, 'load_batches', lambda cfg, part, images: [
        dict(inputs=list(torch.randint(0, 256, (2, 3, 32, 32)).byte()),
             data_samples=[samples(), samples()])])
    found = costs.measure(cfg, str(path))
    assert set(found) == set(costs.COLUMNS)
    assert all(value >= 0 for value in found.values())
    assert found['bytes'] > 0 < found['seconds']


def test_what_is_not_run_is_marked(tmp_path, monkeypatch):
    figures = dict.fromkeys(costs.COLUMNS, .25) | {'accuracy/top1': 97.5}
    calls = []
    monkeypatch.setattr(
        costs, 'run', lambda cfg, place: calls.append(place) or figures)
    args = ('--out', tmp_path / 'x.json', '--tasks', 'cls', '--settings',
            '0', '3', '--epochs', '1', '--work-dir', tmp_path)
    run(monkeypatch, *args)
    run(monkeypatch, *args)  # not again
    assert calls == [tmp_path / 'cls' / i for i in '03']
    text = (tmp_path / 'x.md').read_text()
    rows = [line for line in text.splitlines() if line.startswith('| ')][2:]
    assert len(rows) == 3 * len(costs.SETTINGS)
    done = [i for i, row in enumerate(rows) if 'not run' not in row]
    assert done == [0, 3]
    assert '| ternary codes | 1 x 4 | top-1, % 97.50 | 25.0 |' in rows[3]
    assert set(json.loads((tmp_path / 'x.json').read_text())['cls']) == {
        str(costs.SETTINGS[i]) for i in done}


def test_a_trial_is_not_for_the_page(monkeypatch):
    with pytest.raises(SystemExit, match='expected another --out'):
        run(monkeypatch, '--epochs', '1')


def test_the_page_has_the_table_of_its_figures():
    path = ROOT / 'docs/costs.json'
    found = json.loads(path.read_text()) if path.exists() else {}
    assert costs.table(found) in (ROOT / 'docs/costs.md').read_text()
