"""The command line, as a user runs it, on a few small scenes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import run_tool

from experiments import compare_forms

ROOT = Path(__file__).parents[1]
TASKS = {
    'mmpretrain': 'configs/cls/qsdt_digits.py',
    'mmdet': 'configs/det/qsdt_maskrcnn_digits.py',
    'mmseg': 'configs/seg/qsdt_fpn_digits.py'
}
# One short epoch or two iterations, in this process.
SHORT = {
    'mmpretrain': ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=8'],
    'mmdet': ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
              'train_dataloader.batch_size=2'],
    'mmseg': ['train_cfg.max_iters=2', 'train_cfg.val_interval=2',
              'default_hooks.checkpoint.interval=2',
              'train_dataloader.batch_size=2']
}
# A prediction of seconds: few regions, and one scene.
SMALL = {
    'mmpretrain': [],
    'mmdet': ['model.test_cfg.rpn.nms_pre=100',
              'model.test_cfg.rpn.max_per_img=16',
              'test_dataloader.dataset.indices=1'],
    'mmseg': ['test_dataloader.dataset.indices=1']
}
LOADERS = [
    f'{part}_dataloader.{key}' for part in ('train', 'val', 'test')
    for key in ('num_workers=0', 'persistent_workers=False')
]


@pytest.fixture(scope='module')
def workplace(copy_digits, tmp_path_factory) -> Path:
    """A folder with data/digits in it: four scenes and two."""
    return copy_digits(tmp_path_factory.mktemp('workplace'))


def train(monkeypatch, folder, framework, work_dir, *options) -> None:
    run_tool(monkeypatch, folder, 'train.py', ROOT / TASKS[framework],
             '--work-dir', work_dir, '--cfg-options', *SHORT[framework],
             *LOADERS, *options)


def last_validation(work_dir: Path) -> dict:
    """The scores of the last validation, from the log of numbers."""
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text()
    scores = [json.loads(line) for line in lines.splitlines()]
    return next(s for s in reversed(scores) if 'lr' not in s)


@pytest.mark.parametrize('framework', TASKS)
def test_testing_reproduces_the_last_validation(framework, workplace,
                                                monkeypatch, capsys):
    pytest.importorskip(framework)
    work_dir = workplace / f'work_{framework}'
    train(monkeypatch, workplace, framework, work_dir)
    trained = last_validation(work_dir)
    capsys.readouterr()
    run_tool(monkeypatch, workplace, 'test.py', ROOT / TASKS[framework],
             work_dir, '--work-dir', workplace / 'tested', '--show-dir',
             workplace / framework, '--show-number', '2', '--out',
             workplace / f'{framework}.pkl', '--cfg-options', *LOADERS)
    tested, = (workplace / 'tested').glob('*/*.json')
    tested = json.loads(tested.read_text())
    shutil.rmtree(workplace / 'tested')
    scores = {k for k in trained if '/' in k or k in ('mIoU', 'aAcc')}
    assert scores
    # The last digit: a mean over no class is nan, equal to itself here.
    assert {k: repr(tested[k]) for k in scores} == \
        {k: repr(trained[k]) for k in scores}
    printed = capsys.readouterr().out
    assert all(f'{score}: ' in printed for score in scores)
    assert len(list((workplace / framework).glob('*.png'))) == 2
    assert (workplace / f'{framework}.pkl').stat().st_size > 0


@pytest.mark.parametrize('framework', TASKS)
def test_every_form_of_a_trained_model(framework, workplace, monkeypatch,
                                       capsys):
    """In float64 equal scores and no flip."""
    pytest.importorskip(framework)
    work_dir = workplace / f'forms_{framework}'
    train(monkeypatch, workplace, framework, work_dir)
    capsys.readouterr()
    page = workplace / f'{framework}.md'
    monkeypatch.setattr(compare_forms, 'ROUNDS', 1)
    run_tool(monkeypatch, workplace, 'compare_forms.py',
             ROOT / TASKS[framework], work_dir, '--images', '1', '--double',
             '--page', page, '--cfg-options', *SMALL[framework], *LOADERS)
    table = [line for line in page.read_text().splitlines()
             if line.startswith('| ')]
    assert '\n'.join(table) in capsys.readouterr().out
    rows = {cells[0]: cells[1:] for cells in (
        row.strip('| ').split(' | ') for row in table[2:])}
    assert list(rows) == [
        'float', 'integer', 'fast', 'thermometer', 'bitwise']
    scores = (len(rows['float']) - 4) // 2  # and as many in float64
    exact = {name: row for name, row in rows.items() if name != 'fast'}
    assert len({tuple(row[scores:-4]) for row in exact.values()}) == 1
    assert all(row[-3].startswith('0 of ') for name, row in exact.items()
               if name != 'float')
    assert all(float(row[-2]) > 0 for row in rows.values())
    assert rows['integer'][-1] == rows['fast'][-1] != rows['float'][-1]


def test_resume_amp_and_auto_scale_lr(workplace, monkeypatch):
    pytest.importorskip('mmpretrain')
    work_dir = workplace / 'resumed'
    train(monkeypatch, workplace, 'mmpretrain', work_dir)
    run_tool(monkeypatch, workplace, 'train.py',
             ROOT / TASKS['mmpretrain'], '--work-dir', work_dir, '--resume',
             '--amp', '--auto-scale-lr', '--cfg-options',
             'train_cfg.max_epochs=2', 'train_dataloader.batch_size=8',
             *LOADERS)
    from mmqsdt.checkpoints.read import load_state_dict
    first, second = (
        load_state_dict(work_dir / f'epoch_{i}.pth') for i in (1, 2))
    name = 'backbone.stages.0.downsample.norm.num_batches_tracked'
    assert (first[name], second[name]) == (3, 6)  # 20 pictures, 8 at a time


REAL = {
    'configs/cls/qsdt_imagenet.py': ('data/imagenet', 'mmpretrain'),
    'configs/det/qsdt_maskrcnn_coco.py': ('data/coco', 'mmdet'),
    'configs/seg/qsdt_fpn_ade20k.py': ('data/ade/ADEChallengeData2016',
                                       'mmseg')
}


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
@pytest.mark.parametrize('config', REAL)
def test_missing_data_gives_one_clear_message(config, tool, tmp_path,
                                              monkeypatch):
    folder, framework = REAL[config]
    pytest.importorskip(framework)
    more = ['some.pth'] if tool == 'test.py' else []
    with pytest.raises(SystemExit) as stop:
        run_tool(monkeypatch, tmp_path, tool, ROOT / config, *more)
    message = str(stop.value)
    assert f'looked for: {folder}' in message
    assert 'https://' in message
    # Outside the checkout, where tools/ is not.
    assert 'python -m mmqsdt prepare_data digits' in message
    assert TASKS[framework] in message
    assert not (tmp_path / 'work_dirs').exists()  # nothing was built


def test_a_missing_framework_gives_one_clear_message(tmp_path, monkeypatch):
    for name in [m for m in sys.modules if m.split('.')[0] == 'mmdet']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'mmdet', None)
    with pytest.raises(SystemExit, match=r'pip install\s+"mmqsdt\[det\]"'):
        run_tool(monkeypatch, tmp_path, 'train.py',
                 ROOT / TASKS['mmdet'])


@pytest.mark.parametrize('args, words', [
    (['no_such.py'], 'no config at no_such.py'),
    ([ROOT / TASKS['mmpretrain'], '--cfg-options',
      'optim_wrapper.type=AmpOptimWrapper2', '--amp'], '--amp cannot'),
])
def test_bad_arguments_of_training(args, words, workplace, monkeypatch):
    with pytest.raises(SystemExit, match=words):
        run_tool(monkeypatch, workplace, 'train.py', *args)


@pytest.mark.parametrize('args, words', [
    (['none.pth'], 'no checkpoint at none.pth'),
    (['.'], 'no checkpoint in'),
    (['x.pth', '--out', 'x.json'], '--out must end in .pkl'),
    (['x.pth', '--tta'], '--tta needs tta_model and tta_pipeline'),
])
def test_bad_arguments_of_testing(args, words, workplace, monkeypatch):
    pytest.importorskip('mmpretrain')
    with pytest.raises(SystemExit, match=re.escape(words)):
        run_tool(monkeypatch, workplace, 'test.py',
                 ROOT / TASKS['mmpretrain'], *args)


def test_a_checkpoint_of_another_config_is_refused(workplace, monkeypatch):
    pytest.importorskip('mmpretrain')
    path = workplace / 'other.pth'
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), path)
    with pytest.raises(SystemExit, match='saved from another config'):
        run_tool(monkeypatch, workplace, 'test.py',
                 ROOT / TASKS['mmpretrain'], path, '--cfg-options', *LOADERS)


# Stand-ins for the real data sets, in their formats.


def coco_stand_in(folder: Path) -> None:
    from mmdet.datasets import CocoDataset
    names = CocoDataset.METAINFO['classes']
    for split in ('train', 'val'):
        source = folder / 'data/digits/det'
        target = folder / 'data/coco'
        shutil.copytree(source / split, target / f'{split}2017')
        content = json.loads(
            (source / f'annotations/instances_{split}.json').read_text())
        for category, name in zip(content['categories'], names):
            category['name'] = name
        last = max(category['id'] for category in content['categories'])
        content['categories'] += [
            dict(id=last + i, name=name)
            for i, name in enumerate(names[len(content['categories']):], 1)]
        (target / 'annotations').mkdir(exist_ok=True)
        (target / f'annotations/instances_{split}2017.json').write_text(
            json.dumps(content))


def imagenet_stand_in(folder: Path) -> None:
    for split in ('train', 'val'):
        for digit in (folder / 'data/digits/cls' / split).iterdir():
            picture = next(digit.iterdir())
            for i in range(100):
                target = folder / f'data/imagenet/{split}/n{digit.name}{i:02d}'
                target.mkdir(parents=True)
                shutil.copy(picture, target / 'x.JPEG')


def ade_stand_in(folder: Path) -> None:
    target = folder / 'data/ade/ADEChallengeData2016'
    shutil.copytree(folder / 'data/digits/seg', target)


TINY = 'model.backbone.arch=tiny'
FEW = ['train_dataloader.batch_size=1', 'train_dataloader.dataset.indices=1',
       'val_dataloader.dataset.indices=1']
STAND_INS = {
    'configs/cls/qsdt_imagenet.py':
    (imagenet_stand_in, [
        'model.head.in_channels=128', 'train_cfg.max_epochs=1',
        'train_dataloader.pin_memory=False', 'val_dataloader.pin_memory=False'
    ]),
    'configs/det/qsdt_maskrcnn_coco.py':
    (coco_stand_in,
     ['model.neck.in_channels=[16,48,96,128]', 'train_cfg.max_epochs=1']),
    'configs/seg/qsdt_fpn_ade20k.py':
    (ade_stand_in, [
        'model.neck.in_channels=[8,16,48,128]', 'train_cfg.max_iters=1',
        'train_cfg.val_interval=1'
    ])
}


@pytest.mark.parametrize('config', STAND_INS)
def test_published_configs_train_on_data_in_their_format(
        config, workplace, monkeypatch):
    pytest.importorskip(REAL[config][1])
    make, options = STAND_INS[config]
    make(workplace)
    work_dir = workplace / f'real_{REAL[config][1]}'
    run_tool(monkeypatch, workplace, 'train.py', ROOT / config, '--work-dir',
             work_dir, '--cfg-options', TINY, *options, *FEW, *LOADERS)
    assert len(list(work_dir.glob('*_1.pth'))) == 1
    log, = work_dir.glob('*/*.log')
    assert '(val) [' in log.read_text()


# The frameworks' own tools, with nothing but custom_imports.


def test_mmdets_own_tool_finds_the_stand_in_by_custom_imports(workplace):
    mmdet = pytest.importorskip('mmdet')
    tool = Path(mmdet.__file__).parent / '.mim/tools/train.py'
    if not tool.is_file():
        pytest.skip('mmdet was installed without its tools')
    config = workplace / 'my_config.py'
    config.write_text(
        f"_base_ = [{str(ROOT / TASKS['mmdet'])!r}]\n"
        "custom_imports = dict(imports=['mmqsdt'])\n")
    done = subprocess.run(
        [sys.executable, tool, config, '--work-dir', workplace / 'own',
         '--cfg-options', *SHORT['mmdet'], *LOADERS],
        cwd=workplace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (workplace / 'own/epoch_1.pth').is_file()


def test_convert_checkpoint(tmp_path, monkeypatch, golden):
    from mmqsdt import convert_reference_checkpoint
    weights = golden('tiny_cls', 'state/')
    weights = {k: v for k, v in weights.items()
               if isinstance(v, torch.Tensor)}
    torch.save(dict(model=weights), tmp_path / 'theirs.pth')
    run_tool(monkeypatch, tmp_path, 'convert_checkpoint.py', 'theirs.pth',
             'ours.pth', '--backbone-only')
    ours = torch.load(tmp_path / 'ours.pth', weights_only=True)
    expected = convert_reference_checkpoint(weights, backbone_only=True)
    ours = ours.get('state_dict', ours)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[k], expected[k]) for k in expected)
    (tmp_path / 'junk.pth').write_bytes(np.arange(9).tobytes())
    with pytest.raises(SystemExit, match='junk.pth'):
        run_tool(monkeypatch, tmp_path, 'convert_checkpoint.py', 'junk.pth',
                 'x.pth')
    weights['head.weight'] = weights['head.weight'] * float('nan')
    torch.save(dict(model=weights), tmp_path / 'diverged.pth')
    with pytest.raises(SystemExit, match='diverged.pth: .*head.fc.weight'):
        run_tool(monkeypatch, tmp_path, 'convert_checkpoint.py',
                 'diverged.pth', 'x.pth')
    assert not (tmp_path / 'x.pth').exists()


def test_prepare_data(tmp_path, monkeypatch, capsys):
    pytest.importorskip('sklearn')
    args = ('prepare_data.py', 'digits', '--num-train', '2', '--num-val', '1')
    run_tool(monkeypatch, tmp_path, *args)
    assert (tmp_path / 'data/digits/digits.json').is_file()
    assert 'data/digits' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='--force'):
        run_tool(monkeypatch, tmp_path, *args, '--seed', '1')
