"""The list of configs says what they are; any of them runs on the digits."""

import runpy
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config
from test_configs import CONFIGS, build, load
from test_geometry import geometry_faults
from test_zoo import shrink

from mmqsdt import get_config_path
from mmqsdt.cli.smoke import BATCH_SIZE, ITERATIONS, smoke
from mmqsdt.cli.zoo import describe_config, list_zoo, select
from mmqsdt.utils.configs import config_names, find_config

HOME = Path(__file__).parents[2]


def run_train(monkeypatch, folder: Path, *args: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, args)])
    runpy.run_path(str(HOME / 'tools/train.py'), run_name='__main__')


@pytest.fixture(scope='module')
def entries() -> dict:
    return {entry.name: entry for entry in list_zoo()}


def test_every_config_is_listed(entries):
    assert sorted(f'{name}.py' for name in entries) == CONFIGS
    assert list(entries) == config_names()


@pytest.mark.parametrize('name, expected', [
    ('cls/qsdt_imagenet', ('classification', 'ImageClassifier', '15m', '4',
                           '1 x 4', 'ImageNet-1k')),
    ('cls/qsdt-2bit_imagenet', ('classification', 'ImageClassifier', '15m',
                                '2', '1 x 4', 'ImageNet-1k')),
    ('cls/qsdt-lif_imagenet', ('classification', 'ImageClassifier', '15m',
                               '4', '4 x 1', 'ImageNet-1k')),
    ('cls/qsdt_cifar10dvs', ('classification', 'ImageClassifier', 'tiny', '4',
                             '10 x 4', 'CIFAR10-DVS')),
    ('cls/qsdt-ann_imagenet', ('classification', 'ImageClassifier', '15m',
                               'float', 'ReLU', 'ImageNet-1k')),
    ('det/qsdt-31m_maskrcnn_coco', ('detection', 'MaskRCNN', '31m', '4',
                                    '1 x 4', 'COCO 2017')),
    ('det/r18-half_maskrcnn_digits', ('detection', 'MaskRCNN', 'ResNet-18',
                                      'float', 'ReLU', 'the digits scenes')),
    ('seg/qsdt_fpn_ade20k', ('segmentation', 'EncoderDecoder', '15m', '4',
                             '1 x 4', 'ADE20K')),
])
def test_a_config_is_described(name, expected, entries):
    entry = entries[name]
    assert (entry.task, entry.network, entry.size, entry.bits, entry.spikes,
            entry.data) == expected


def test_data_that_are_here_are_marked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not describe_config('seg/qsdt_fpn_ade20k').data_here
    for part in ('images', 'annotations'):
        (tmp_path / f'data/ade/ADEChallengeData2016/{part}/training').mkdir(
            parents=True)
    assert describe_config('seg/qsdt_fpn_ade20k').data_here


@pytest.mark.parametrize('pattern, expected', [
    ('coco 31m', ['det/qsdt-31m_maskrcnn_coco',
                  'det/qsdt-learned-31m_maskrcnn_coco']),
    ('det/qsdt_*retinanet*', ['det/qsdt_retinanet_coco',
                              'det/qsdt_retinanet_digits']),
    ('UPERNET ADE', ['seg/qsdt-learned_upernet_ade20k',
                     'seg/qsdt_upernet_ade20k']),
])
def test_patterns(pattern, expected, entries):
    found = select(list(entries.values()), pattern)
    assert [entry.name for entry in found] == expected


def test_an_unknown_pattern_suggests_the_nearest(entries):
    with pytest.raises(ValueError, match='imagnet.*did you mean .*imagenet'):
        select(list(entries.values()), 'imagnet')
    # Each word by itself, and parts of a name.
    with pytest.raises(ValueError, match=r'did you mean upernet[^,]*, ade20k'):
        select(list(entries.values()), 'seg upernt ade2k')
    with pytest.raises(ValueError, match='though each of its words does'):
        select(list(entries.values()), 'coco upernet')


@pytest.mark.parametrize('name', [
    'qsdt_maskrcnn_coco', 'qsdt_maskrcnn_coco.py', 'det/qsdt_maskrcnn_coco',
    'configs/det/qsdt_maskrcnn_coco.py'
])
def test_a_config_is_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == get_config_path('det/qsdt_maskrcnn_coco.py')


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'qsdt_digits').write_text('')
    assert find_config('qsdt_digits') == 'qsdt_digits'


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(FileNotFoundError, match='no config at qsdt_fpn_ade.py;'
                       ' did you mean seg/qsdt_fpn_ade20k'):
        find_config('qsdt_fpn_ade.py')


def test_names_are_unique():
    stems = [name.split('/')[1] for name in config_names()]
    assert len(set(stems)) == len(stems)


def test_listing_needs_no_config_and_training_does(tmp_path, monkeypatch,
                                                   capsys):
    run_train(monkeypatch, tmp_path, '--list', 'upernet')
    printed = capsys.readouterr().out
    assert 'seg/qsdt_upernet_ade20k' in printed and 'coco' not in printed
    with pytest.raises(SystemExit) as stop:
        run_train(monkeypatch, tmp_path)
    assert stop.value.code == 2
    assert '--list' in capsys.readouterr().err


# A few iterations on the digits


@pytest.fixture(scope='module')
def workplace(tmp_path_factory) -> Path:
    """A folder with data/digits in it: nine scenes and three, 20 digits."""
    pytest.importorskip('sklearn')
    from mmqsdt.data import prepare_digits
    folder = tmp_path_factory.mktemp('workplace')
    prepare_digits(folder / 'data/digits', num_train=9, num_val=3,
                   progress=False)
    for digit in (folder / 'data/digits/cls').glob('*/*'):
        for picture in sorted(digit.iterdir())[2:]:
            picture.unlink()
    return folder


def without_classes(part: object) -> object:
    """The same, but for numbers and weights of classes at any depth."""
    if isinstance(part, dict):
        return {key: without_classes(value) for key, value in part.items()
                if key not in ('num_classes', 'class_weight')}
    if isinstance(part, (list, tuple)):
        return [without_classes(each) for each in part]
    return part


FITTING = [c for c in CONFIGS if 'dvs' not in c]


@pytest.mark.parametrize('name', FITTING)
def test_smoke_changes_data_and_classes_of_every_config(
        name, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    cfg, before = load(name), load(name)
    said = smoke(cfg)
    classes = 11 if name.startswith('seg') else 10
    assert f', {classes} classes in place of' in said and '\n' not in said
    small = deepcopy(cfg)
    small.model = shrink(small.model)
    assert geometry_faults(model := build(small)) == []
    assert {m.num_classes for n, m in model.named_modules()
            if n != 'rpn_head' and getattr(m, 'num_classes', None)
            and list(m.parameters())} == {classes}
    for model in (cfg.model, before.model):
        model.data_preprocessor.pop('size', None)
    assert without_classes(cfg.model) == without_classes(before.model)
    assert cfg.optim_wrapper == before.optim_wrapper
    assert cfg.param_scheduler == before.param_scheduler
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        assert 'digits' in loader.dataset.data_root
        assert loader.batch_size <= BATCH_SIZE
        assert len(loader.dataset.indices) <= ITERATIONS * BATCH_SIZE
    lengths = cfg.train_cfg
    assert lengths.get('max_epochs', 1) == 1
    assert lengths.get('max_iters', ITERATIONS) == ITERATIONS


def test_smoke_takes_the_data_of_a_config_if_they_are_there(workplace,
                                                            monkeypatch):
    monkeypatch.chdir(workplace)
    cfg, before = (load('seg/qsdt_fpn_digits.py') for _ in range(2))
    assert smoke(cfg, own_data=True) == (
        'smoke: 4 iterations on 8 images of its own data; its scores mean '
        'nothing')
    assert cfg.model == before.model
    assert cfg.train_dataloader.dataset.data_root == \
        before.train_dataloader.dataset.data_root
    assert len(cfg.train_dataloader.dataset.indices) == 8
    assert cfg.train_cfg.max_iters == ITERATIONS
    other = load('seg/qsdt_fpn_ade20k.py')  # its data are not there
    assert 'digits images in place of' in smoke(other, own_data=True)


def test_classification_sees_several_classes(workplace, monkeypatch):
    from mmengine.registry import DATASETS, init_default_scope
    monkeypatch.chdir(workplace)
    cfg = load('cls/qsdt_imagenet.py')
    smoke(cfg)
    init_default_scope('mmpretrain')
    data = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(set(data.get_gt_labels())) == ITERATIONS * BATCH_SIZE


def test_smoke_refuses_what_the_digits_are_no_input_for(workplace,
                                                        monkeypatch):
    monkeypatch.chdir(workplace)
    with pytest.raises(ValueError, match='reads 2'):
        smoke(load('cls/qsdt_cifar10dvs.py'))
    with pytest.raises(ValueError, match='this config is for mmaction'):
        smoke(Config(dict(default_scope='mmaction')))


def test_smoke_without_digits_says_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match='tools/prepare_data.py digits'):
        run_train(monkeypatch, tmp_path, 'qsdt_fpn_ade20k', '--smoke')
    assert not list(tmp_path.iterdir())


TINY = {
    'cls/qsdt_fgd_imagenet': ['model.head.in_channels=128'],
    'det/qsdt_maskrcnn_coco': ['model.neck.in_channels=[16,48,96,128]'],
    'seg/qsdt_fpn_ade20k': ['model.neck.in_channels=[8,16,48,128]']
}


@pytest.mark.parametrize('name', TINY)
def test_smoke_trains_and_validates(name, workplace, monkeypatch, capsys):
    load(f'{name}.py')  # skips without the framework
    run_train(monkeypatch, workplace, name, '--smoke', '--cfg-options',
              'model.backbone.arch=tiny', *TINY[name])
    printed = capsys.readouterr().out
    assert 'smoke: 4 iterations on 8 digits images in place of' in printed
    work_dir = workplace / f'work_dirs/{name.split("/")[1]}_smoke'
    log = next(work_dir.glob('*/*.log')).read_text()
    assert '(val) [' in log and 'loss: nan' not in log
    assert list(work_dir.glob('*.pth'))
