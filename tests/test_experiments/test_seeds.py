import json
import sys
import threading
from pathlib import Path

import pytest

from experiments import compare_configs as tool
from experiments.seeds import last_scores, seeds_table

ROOT = Path(__file__).parents[2]


def write_log(work_dir: Path, run: str, *entries: dict) -> None:
    folder = work_dir / run / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(
        ''.join(json.dumps(entry) + '\n' for entry in entries))


def test_last_scores_are_those_of_the_last_validation(tmp_path):
    write_log(tmp_path, '20260101_000000', {'mIoU': 99., 'step': 1})
    write_log(
        tmp_path, '20260102_000000', {'loss': 2.}, {'mIoU': 1., 'step': 1},
        {'mIoU': 2.5, 'mAcc': 3., 'step': 2}, {'loss': 1.})
    assert last_scores(tmp_path) == {'mIoU': 2.5}


def test_no_validation(tmp_path):
    write_log(tmp_path, '20260101_000000', {'loss': 2.})
    with pytest.raises(ValueError, match='no log of a validation'):
        last_scores(tmp_path)


def test_table():
    def scores(box: float, mask: float) -> dict:
        return {'coco/bbox_mAP': box, 'coco/segm_mAP': mask}

    table = seeds_table({
        'a': {'0': scores(0.5, 0.25), '1': scores(0.7, 0.25)},
        'b': {'0': scores(0.4, 0.375), '1': scores(0.8, 0.125)},
        'c': {'1': scores(0.8, 0.25)}})
    assert table.splitlines() == [
        '| config | seeds | bbox mAP | segm mAP | bbox mAP: less the first '
        '| segm mAP: less the first |',
        '|---|---|---|---|---|---|',
        '| `a` | 2 | 0.600 ± 0.141 | 0.250 ± 0.000 |  |  |',
        '| `b` | 2 | 0.600 ± 0.283 | 0.250 ± 0.177 | +0.000 (-0.100, +0.100) '
        '| +0.000 (+0.125, -0.125) |',
        '| `c` | 1 | 0.800 | 0.250 | +0.100 (+0.100) | +0.000 (+0.000) |']


def test_runs_that_cannot_be_compared():
    with pytest.raises(ValueError, match='the same metrics'):
        seeds_table({'a': {'0': {'mIoU': 1.}},
                     'b': {'0': {'accuracy/top1': 1.}}})
    with pytest.raises(ValueError, match='must have been trained'):
        seeds_table({'a': {}})


@pytest.mark.parametrize('name', [
    'heads_det', 'heads_seg', 'heads_published_det', 'heads_published_seg'])
def test_the_tables_in_the_documentation_are_those_of_the_runs(name):
    content = json.loads((ROOT / f'docs/{name}.json').read_text())
    page = (ROOT / 'docs/heads.md').read_text()
    assert (f'begin of {name} -->\n\n{seeds_table(content["runs"])}'
            f'\n<!-- end of {name}') in page


def test_tool_resumes(tmp_path, monkeypatch, capsys):
    configs = ['seg/qsdt_fpn_digits.py', 'seg/qsdt_fpn-stock-head_digits.py']
    trained = []

    def train(config, seed, work_dir, options, jobs):
        trained.append((Path(config).stem, seed, options))
        return {'mIoU': 10. * len(trained)}

    monkeypatch.setattr(tool, 'train', train)
    for seeds in '1', '2':
        monkeypatch.setattr(sys, 'argv', [
            'x', *configs, '--out', str(tmp_path / 'a.json'), '--seeds',
            seeds, '--cfg-options', 'a=1'])
        tool.main()
    names = ['qsdt_fpn_digits', 'qsdt_fpn-stock-head_digits']
    assert trained == [(n, seed, ['a=1']) for seed in (0, 1) for n in names]
    assert '+10.00 (+10.00, +10.00)' in (tmp_path / 'a.md').read_text()
    monkeypatch.setattr(sys, 'argv', [
        'x', *configs, '--out', str(tmp_path / 'a.json')])
    with pytest.raises(SystemExit, match='holds runs with --cfg-options'):
        tool.main()


def test_trainings_side_by_side(tmp_path, monkeypatch):
    """Later ones may end first; one that fails costs no other its result."""
    seed_1_done = threading.Event()

    def train(config, seed, work_dir, options, jobs):
        assert jobs == 2
        if seed == 0:
            assert seed_1_done.wait(10)
        if seed == 2:
            raise RuntimeError('seed 2 fails')
        if seed == 1:
            seed_1_done.set()
        return {'mIoU': 10. * seed}

    monkeypatch.setattr(tool, 'train', train)
    out = tmp_path / 'a.json'
    monkeypatch.setattr(sys, 'argv', [
        'x', 'seg/qsdt_fpn_digits.py', '--out', str(out), '--jobs', '2'])
    with pytest.raises(SystemExit, match='seed 2 fails'):
        tool.main()
    runs = json.loads(out.read_text())['runs']['qsdt_fpn_digits']
    assert list(runs) == ['0', '1']


def test_failed_training_shows_why(tmp_path):
    with pytest.raises(RuntimeError, match='(?s)failed; the end of .*no_such'):
        tool.train('no_such_config', 0, tmp_path, [], 1)
