import gzip
import json
import math
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS

from experiments.ablation_arms import (
    ARMS,
    COMPARISONS,
    TRIALS,
    ablation_tables,
    accuracies,
    compare,
    teacher_arm,
    trial_arm,
)

ROOT = Path(__file__).parents[2]


def runs(**accuracy: list[float]) -> dict:
    entropy = dict(q=1.5, k=1.25, v=1.)
    return {
        f'{arm}, seed {seed}': dict(
            accuracy=value,
            entropy=dict.fromkeys('qkv') if arm == 'ann' else entropy,
            bound=dict.fromkeys('qkv', None if arm == 'ann' else 2.3219),
            firing_rate=dict.fromkeys('qkv', None if arm == 'ann' else 0.25),
            fgd=dict.fromkeys('qkv', 0.5))
        for arm, values in accuracy.items()
        for seed, value in enumerate(values)
    }


def test_the_tables_in_the_documentation_are_those_of_the_runs():
    content = json.loads((ROOT / 'docs/ablation.json').read_text())
    text = (ROOT / 'docs/ablation.md').read_text()
    tables = ablation_tables(content)
    assert f'begin of tables -->\n\n{tables}\n<!-- end' in text


def test_comparisons_are_paired_by_seed():
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt(3)
    found = compare(
        runs(ielif=[11., 22., 33.], lif_t1=[10., 20., 30., 99.]), 'ielif',
        'lif_t1')
    assert found.differences == [1., 2., 3.]
    t = 2 * math.sqrt(3)  # two degrees of freedom have a closed form
    assert found.t_test == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert found.signed_rank == 0.25  # 2 of the 8 signs are as extreme
    assert compare(runs(ielif=[1., 2.], ann=[3.]), 'ielif', 'ann') is None


def test_five_seeds_at_best():
    found = compare(
        runs(ann=[5., 6., 7., 8., 9.5], ielif=[1., 2., 2., 2., 2.]), 'ann',
        'ielif')
    assert found.signed_rank == 0.0625


def test_ties_and_equal_pairs():
    """Ranks 1.5, 1.5, 3 of -1, 1, 2: as extreme are 6 of the 8 signs."""
    found = compare(
        runs(ann=[9., 11., 12., 10.], ielif=[10.] * 4), 'ann', 'ielif')
    assert found.differences == [-1., 1., 2., 0.]
    assert found.signed_rank == 0.75


def test_equal_arms_do_not_differ():
    same = runs(ann=[5., 6.], ielif=[5., 6.])
    assert compare(same, 'ann', 'ielif').signed_rank == 1.


def test_tables():
    lines = ablation_tables(
        dict(
            runs=runs(ann=[80.], ielif=[60., 62.], lif_t1=[50., 50.]),
            trials={
                'ielif, weight 3, seed 100': dict(accuracy=61.04),
                'ielif, weight 3, seed 101': dict(accuracy=62.)})).splitlines()
    assert len(lines[2:lines.index('')]) == len(ARMS)
    assert '| binary LIF, T = 4 | 4 | 4 | 0 | not run | - | - | - | - |' \
        in lines
    assert [lines[i] for i in (2, 3, 5)] == [
        '| ANN counterpart | float | 1 | 1 | 80.0 | - | - | - '
        '| 0.50, 0.50, 0.50 |',
        '| binary LIF, T = 1 | 4 | 1 | 2 | 50.0 ± 0.0 | 1.50, 1.25, 1.00 '
        '| 2.32 | 0.25, 0.25, 0.25 | 0.50, 0.50, 0.50 |',
        '| IE-LIF | 4 | 1 | 2 | 61.0 ± 1.4 | 1.50, 1.25, 1.00 | 2.32 '
        '| 0.25, 0.25, 0.25 | 0.50, 0.50, 0.50 |']
    assert [line for line in lines if ' less ' in line] == [
        '| 4-bit IE-LIF less 4-bit binary LIF, T = 1 | +11.0 | +10.0, +12.0 '
        '| 0.058 | 0.5 |']
    assert lines[-1] == '| ielif, weight 3 | 61.0, 62.0 | 61.5 |'


def test_seeds_are_sorted():
    assert list(accuracies(
        {'ann, seed 10': dict(accuracy=1.), 'ann, seed 9': dict(accuracy=2.),
         'ielif, seed 1': dict(accuracy=3.)}, 'ann')) == [9, 10]


def test_arms_differ_in_what_they_are_compared_for():
    assert {x for pair in COMPARISONS for x in pair} <= set(ARMS)
    for name in TRIALS:
        trial_arm(name)
    for a, b in (('ielif_fgd', 'ielif'), ('ielif_2bit_fgd', 'ielif_2bit'),
                 ('ielif_start_fgd', 'ielif_start')):
        a, b = vars(ARMS[a]).copy(), vars(ARMS[b]).copy()
        differ = {key for key in a if a[key] != b[key]}
        assert differ == {'title', 'fgd', 'cost'}
    assert len({arm.lr for arm in ARMS.values()}) == 1


@pytest.fixture
def tool(monkeypatch):
    """The experiment, with settings that take seconds."""
    module = import_module('experiments.ablation')
    monkeypatch.setattr(module, 'quiet', lambda: None)
    monkeypatch.setitem(module.SETTINGS, 'image_size', 32)
    monkeypatch.setitem(module.SETTINGS, 'epochs', 3)
    monkeypatch.setitem(
        module.SETTINGS, 'arch',
        dict(embed_dims=(4, 4, 8, 8), depths=(1, 1), num_heads=2))
    monkeypatch.setitem(
        module.SPLITS, 'digits', dict(train=128, val=32, test=32))
    return module


def test_images_are_split_by_seed_and_tested_on_the_same(tool):
    first, again, other = (
        tool.split_data('digits', None, seed) for seed in (0, 0, 1))
    for part, count in tool.SPLITS['digits'].items():
        assert first[part][0].shape == (count, 1, 32, 32)
        for a, b in zip(first[part], again[part]):
            assert a.equal(b)
    assert first['test'][0].equal(other['test'][0])
    assert not first['train'][0].equal(other['train'][0])
    seen = {part: {x.numpy().tobytes() for x in images}
            for part, (images, _) in first.items()}
    assert not seen['test'] & (seen['train'] | seen['val'])
    assert not seen['train'] & seen['val']


def test_images_are_moved_alike_in_every_arm(tool):
    images, labels = tool.split_data('digits', None, 0)['train']
    a, b = (tool.Images(images, labels, seed=3) for _ in range(2))
    moved = [a[i]['inputs'] for i in range(8)]
    assert all(x.equal(b[i]['inputs']) for i, x in enumerate(moved))
    assert not all(x.equal(images[i]) for i, x in enumerate(moved))
    still = tool.Images(images, labels)
    assert all(still[i]['inputs'].equal(images[i]) for i in range(8))
    assert still[5]['data_samples'].gt_label.item() == labels[5]


def test_arrays_in_the_format_of_mnist(tool, tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / 'x-ubyte.gz'
    header = bytes([0, 0, 8, 3]) + np.array([2, 3, 4], '>i4').tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))
    assert np.array_equal(tool.read_idx(path), array)


def test_a_run_is_repeatable_and_resumes(tool, tmp_path, monkeypatch,
                                         capsys):
    names = ('ann', 'ielif', 'ielif_fgd')
    monkeypatch.setattr(tool, 'ARMS', {name: ARMS[name] for name in names})

    def run(seeds: int, out: str) -> dict:
        monkeypatch.setattr(
            sys, 'argv',
            ['ablation.py', '--data', 'digits', '--seeds', str(seeds),
             '--out', str(tmp_path / out), '--work-dir', str(tmp_path)])
        tool.main()
        return json.loads((tmp_path / out).read_text())

    first = run(1, 'a.json')
    assert set(first['runs']) == {f'{name}, seed 0' for name in names}
    ann = first['runs']['ann, seed 0']
    assert ann['fgd'] == dict(q=0., k=0., v=0.) and ann['entropy']['q'] is None
    plain = first['runs']['ielif, seed 0']
    assert plain['fgd'] != first['runs']['ielif_fgd, seed 0']['fgd']
    assert 0 < plain['entropy']['q'] <= plain['bound']['q']
    assert ablation_tables(first) in (tmp_path / 'a.md').read_text()

    (tmp_path / 'ann_digits_0.pth').unlink()  # the teacher is made again
    content = {**first, 'runs': {'ann, seed 0': ann}}
    (tmp_path / 'b.json').write_text(json.dumps(content))
    capsys.readouterr()
    assert run(1, 'b.json') == first
    assert 'ann, seed 0' not in capsys.readouterr().out

    monkeypatch.setitem(tool.SETTINGS, 'epochs', 4)
    with pytest.raises(SystemExit, match='settings other than those'):
        run(1, 'b.json')


def test_trials_start_elsewhere(tool, tmp_path):
    data = tool.split_data('digits', None, 0)['train']
    ann, model = (
        MODELS.build(tool.model_config(ARMS[name], data))
        for name in ('ann', 'ielif'))
    path = tmp_path / 'ann.pth'
    torch.save(ann.state_dict(), path)
    arm = replace(ARMS['ielif'], layer_scale=0.1)
    tool.start_weights(model, arm, path)
    scales = [x for key, x in model.state_dict().items()
              if 'layer_scale' in key]
    assert scales and all(x.eq(0.1).all() for x in scales)
    assert teacher_arm(arm) == replace(ARMS['ann'], layer_scale=0.1)

    tool.start_weights(model, replace(ARMS['ielif'], from_teacher=True), path)
    state = model.state_dict()
    assert all(state[key].equal(x) for key, x in ann.state_dict().items())


def test_missing_data_are_named(tool, tmp_path):
    with pytest.raises(FileNotFoundError, match='dataset-fashion-mnist'):
        tool.load_images('fashion', tmp_path)
