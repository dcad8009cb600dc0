"""Data of one's own: the written config trains and evaluates."""

import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmqsdt.data.classes import class_counts
from mmqsdt.data.own_data import write_config
from mmqsdt.data.report import FAULTS

LOADERS = [
    f'{part}_dataloader.{key}' for part in ('train', 'val', 'test')
    for key in ('num_workers=0', 'persistent_workers=False', 'batch_size=2')
]
EPOCH = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
# kind -> (framework, base, options, score, classes)
RUNS = dict(
    folder=('mmpretrain', 'cls/qsdt_digits', EPOCH, 'accuracy/top1'),
    coco=('mmdet', 'det/qsdt_maskrcnn_digits', EPOCH, 'coco/segm_mAP'),
    pairs=('mmseg', 'seg/qsdt_fpn_digits',
           ['train_cfg.max_iters=2', 'train_cfg.val_interval=2'], 'mIoU'),
    voc=('mmdet', 'det/qsdt_retinanet_digits', EPOCH, 'pascal_voc/mAP'))


@pytest.mark.parametrize('kind', RUNS)
def test_the_written_config_trains_and_evaluates(kind, make, tmp_path,
                                                 run_tool, capsys):
    framework, base, options, score = RUNS[kind]
    pytest.importorskip(f'{framework}.models')
    make(kind)
    run_tool('prepare_data.py', 'config', kind, kind, '--out', 'my.py',
             '--base', base)
    names = 'ground, figure' if kind == 'pairs' else 'cat, dog'
    assert f'2 classes, {names}' in capsys.readouterr().out
    run_tool('train.py', 'my.py', '--work-dir', 'work', '--cfg-options',
             *options, *LOADERS)
    lines = next((tmp_path / 'work').glob('*/vis_data/scalars.json'))
    scores = [json.loads(line) for line in lines.read_text().splitlines()]
    assert score in scores[-1]
    with pytest.raises(SystemExit) as done:
        run_tool('prepare_data.py', 'check', 'my.py')
    assert done.value.code == 0
    assert 'nothing wrong was found' in capsys.readouterr().out


@pytest.mark.parametrize('kind, base', [
    ('folder', None), ('coco', None), ('pairs', None), ('voc', None),
    ('coco', 'det/qsdt_cascade-maskrcnn_coco'),
    ('pairs', 'seg/qsdt_upernet_ade20k'), ('coco', 'det/qsdt_retinanet_coco')
])
def test_every_number_of_classes_is_set(kind, base, make, tmp_path):
    cfg = write_config(kind, make(kind), tmp_path / 'my.py', base)
    assert {count.number for count in class_counts(cfg.model)} == {2}
    if 'rpn_head' in cfg.model:  # objects or none, as before
        assert 'num_classes' not in cfg.model.rpn_head or \
            cfg.model.rpn_head.num_classes == 1
    if kind == 'folder':
        assert tuple(cfg.val_evaluator.topk) == (1, )
    for part in ('train', 'val', 'test'):
        assert tuple(cfg[f'{part}_dataloader'].dataset.metainfo.classes) == (
            ('ground', 'figure') if kind == 'pairs' else ('cat', 'dog'))


def test_cascades_heads_keep_all_but_the_number(make, tmp_path):
    base = 'det/qsdt_cascade-maskrcnn_coco'
    cfg = write_config('coco', make('coco'), tmp_path / 'my.py', base)
    from mmqsdt import get_config_path
    theirs = Config.fromfile(get_config_path(f'{base}.py'))
    ours = cfg.model.roi_head.bbox_head
    assert len(ours) == 3
    for mine, head in zip(ours, theirs.model.roi_head.bbox_head):
        assert mine == dict(head, num_classes=2)


def test_weights_of_the_old_classes_are_dropped(make, tmp_path):
    cfg = write_config('pairs', make('pairs'), tmp_path / 'my.py',
                       'seg/qsdt_fpn_digits')
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        assert head.loss_decode.class_weight is None


def test_boxes_without_masks_get_a_detector_of_boxes(make, tmp_path,
                                                     edit_json):
    root = make('coco')

    def drop(content: dict) -> None:
        for box in content['annotations']:
            del box['segmentation']

    edit_json(root / 'annotations/instances_train.json', drop)
    cfg = write_config('coco', root, tmp_path / 'my.py')
    assert cfg.model.type == 'RetinaNet'
    with pytest.raises(
            ValueError, match='--base det/qsdt-learned_retinanet_coco'):
        write_config('coco', root, tmp_path / 'other.py',
                     'det/qsdt_maskrcnn_coco')


@pytest.mark.parametrize('change, words', [
    (lambda a: dict(a, out='my.txt'), 'must end in .py'),
    (lambda a: dict(a, base='cls/qsdt_imagenet'), 'is for mmpretrain'),
    (lambda a: dict(a, base='det/qsdt_maskrcn_coco'),
     'did you mean det/qsdt_maskrcnn_coco'),
    (lambda a: dict(a, root='nowhere'), 'no folder nowhere'),
    (lambda a: dict(a, kind='voc'), 'ImageSets/Main/train.txt'),
    (lambda a: dict(a, kind='folder', base=None, classes=('one', )),
     'at least 2 are needed'),
])
def test_bad_arguments(change, words, make, tmp_path, monkeypatch):
    make('coco')
    monkeypatch.chdir(tmp_path)
    arguments = dict(kind='coco', root='coco', out='my.py', base=None)
    with pytest.raises((OSError, ValueError), match=words):
        write_config(**change(arguments))
    assert not Path('my.py').exists()


def test_a_config_is_not_overwritten(make, tmp_path):
    (tmp_path / 'my.py').write_text('precious = 1')
    with pytest.raises(ValueError, match='exists'):
        write_config('coco', make('coco'), tmp_path / 'my.py')


def test_pairs_without_names_say_which_values_there_are(make, tmp_path):
    root = make('pairs')
    (root / 'classes.txt').unlink()
    with pytest.raises(ValueError, match=r'--classes.*\[0, 1, 255\]'):
        write_config('pairs', root, tmp_path / 'my.py')


# What docs/own_data.md says.

PAGE = Path(__file__).parents[2] / 'docs/own_data.md'


def test_the_page_has_all_faults():
    rows = re.findall(r'^\| (.*?) \| (error|warning) \| (.*) \|$',
                      PAGE.read_text(), re.MULTILINE)
    assert {name: (level, text) for name, level, text in rows} == FAULTS
