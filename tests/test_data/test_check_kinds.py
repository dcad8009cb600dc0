"""What the loaders make of annotations is what the check says."""

import codecs
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import BASES
from PIL import Image
from small_data import NUMBER, SIZE, picture

from mmqsdt.data.check import check_config, check_path, refuse_faults
from mmqsdt.data.own_data import write_config
from mmqsdt.utils.build import build_model

TRAIN = 'annotations/instances_train.json'


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# Masks that are none

RLE = dict(size=list(SIZE[::-1]), counts=[400, 20, 48 * 64 - 420])
MASKS = {
    'empty list': [[]],
    'a box': [[8, 8, 28, 32]],
    'an odd number': [[8, 8, 28, 8, 28, 32, 8]],
    'a flat list': [8, 8, 28, 8, 28, 32],
    'a line': [[8, 8, 8, 8, 8, 8]],
    'text': 'mask',
    'no counts': dict(size=[48, 64]),
    'another size': dict(RLE, size=[64, 64]),
    'null': None,
}


@pytest.mark.parametrize('mask', MASKS)
def test_a_segmentation_that_is_no_mask_is_named(mask, make):
    pytest.importorskip('mmdet.models')
    root = make('coco')
    rewrite(root / TRAIN,
            lambda c: c['annotations'][1].update(segmentation=MASKS[mask]))
    train, val = check_path('coco', root)
    assert list(train.findings) == ['box without mask']
    where, = train.findings['box without mask']
    assert where.startswith(f'{root}/train/1.jpg, annotation 1: ')
    assert train.annotations == NUMBER - 1 and train.classes['dog'] == 1
    assert val.findings == {}


@pytest.mark.parametrize('mask', [RLE, [[8, 8, 28, 8, 28, 32], [1, 1]]])
def test_a_segmentation_that_is_a_mask(mask, make):
    pytest.importorskip('mmdet.models')
    root = make('coco')
    rewrite(root / TRAIN,
            lambda c: c['annotations'][1].update(segmentation=mask))
    assert check_path('coco', root)[0].findings == {}


@pytest.mark.parametrize('mask', ['empty list', 'a box', 'an odd number'])
def test_a_training_without_any_mask_is_refused(mask, configure, tmp_path):
    cfg = configure('coco')
    rewrite(tmp_path / 'coco' / TRAIN, lambda c: [
        box.update(segmentation=MASKS[mask]) for box in c['annotations']])
    with pytest.raises(ValueError, match='train/0.jpg, annotation 0: '
                       'segmentation(.*\n)*.*no samples'):
        refuse_faults(cfg, ('train', 'val'))


def test_an_encoded_mask_of_an_evaluation_is_named(configure, tmp_path):
    """mmdet stops at it and does not say where."""
    cfg = configure('coco')
    rewrite(tmp_path / 'coco/annotations/instances_val.json',
            lambda c: c['annotations'][1].update(
                segmentation=dict(size=[48, 64], counts='abc')))
    with pytest.raises(ValueError, match='broken mask: .*val/1.jpg, '
                       'annotation 1: .*RLE'):
        refuse_faults(cfg, ('test', ))


def test_crowds_are_nothing_to_learn(configure, tmp_path):
    cfg = configure('coco')
    rewrite(tmp_path / 'coco' / TRAIN, lambda c: [
        box.update(iscrowd=1) for box in c['annotations']])
    report, *_ = check_config(cfg)
    assert report.findings.keys() == {'class without samples', 'no samples'}
    with pytest.raises(ValueError, match='no samples'):
        refuse_faults(cfg, ('train', ))


# Values of another kind

TYPES = [
    ('images', 'width', '64', True), ('images', 'width', None, True),
    ('images', 'height', '48', True), ('images', 'file_name', None, True),
    ('images', 'file_name', 7, True), ('annotations', 'area', None, True),
    ('annotations', 'area', '480', True),
    ('annotations', 'bbox', None, True), ('annotations', 'bbox', [], True),
    ('annotations', 'bbox', [8, 8, 20], True),
    ('annotations', 'bbox', ['8', '8', '20', '24'], True),
    ('annotations', 'bbox', [8, 8, float('nan'), 8], False),
    ('annotations', 'category_id', None, False),
    ('annotations', 'image_id', None, False),
]


@pytest.mark.parametrize('entry, key, value, stops', TYPES)
def test_values_of_another_kind_are_named(entry, key, value, stops, configure,
                                          tmp_path):
    """With file, image or annotation, and key; a training is refused."""
    cfg = configure('coco')
    rewrite(tmp_path / 'coco' / TRAIN,
            lambda c: c[entry][0].update({key: value}))
    report, *_ = check_config(cfg)
    assert report.errors
    said = json.dumps(report.findings)
    assert f'{key} is ' in said or 'unknown image' in said
    assert 'instances_train.json' in said or '0.jpg, annotation 0' in said \
        or 'annotation 0' in said
    if stops:
        with pytest.raises(ValueError, match=f'{key} is '):
            refuse_faults(cfg, ('train', ))


@pytest.mark.parametrize('change, words', [
    (lambda c: c['annotations'][1].pop('image_id'),
     'annotations, entry 1: no image_id'),
    (lambda c: c['categories'][0].pop('name'), 'categories, entry 1: no name'),
    (lambda c: c['images'][2].pop('id'), 'images, entry number 2: no id'),
    (lambda c: c.update(images={}), 'no list images'),
])
def test_what_pycocotools_stops_at_is_named(change, words, configure,
                                            tmp_path):
    cfg = configure('coco')
    rewrite(tmp_path / 'coco' / TRAIN, change)
    with pytest.raises(ValueError, match=f'instances_train.json: {words}'):
        refuse_faults(cfg, ('train', ))


XML_VALUES = [
    ('<xmin>9<', '<xmin><', 'xmin is .*None|xmin is .*, expected a number'),
    ('<xmin>9<', '<xmin>left<', "object cat: bndbox/xmin is 'left'"),
    ('<width>64<', '<width>wide<', "size: width is 'wide'"),
    ('<width>64</width>', '', 'size: width is None'),
    ('<bndbox>', '<box>', 'bndbox/xmin|mismatched'),
]


@pytest.mark.parametrize('old, new, words', XML_VALUES)
def test_values_of_an_xml_are_named(old, new, words, configure, tmp_path):
    cfg = configure('voc')
    path = tmp_path / 'voc/Annotations/000.xml'
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=f'000.xml: .*({words})'):
        refuse_faults(cfg, ('train', ))


@pytest.mark.parametrize('part, number', [('train', '000'), ('val', '004')])
def test_an_image_of_no_size_is_named(part, number, configure, tmp_path):
    cfg = configure('voc')
    path = tmp_path / f'voc/Annotations/{number}.xml'
    path.write_text(path.read_text().replace('64', '0').replace('48', '0'))
    reports = check_config(cfg)
    report = reports[0] if part == 'train' else reports[1]
    assert f'{number}.jpg: annotated as (0, 0)' in \
        report.findings['wrong size'][0]
    filtered = report.findings.get('filtered image', [])
    assert len(filtered) == (part == 'train')
    assert sum(report.classes.values()) == NUMBER - len(filtered)


def test_what_a_filter_leaves_out_is_named(configure):
    cfg = configure('coco')
    cfg.train_dataloader.dataset.filter_cfg.min_size = 50
    report, *_ = check_config(cfg)
    assert len(report.findings['filtered image']) == NUMBER
    assert report.images == NUMBER and 'no samples' in report.findings
    with pytest.raises(ValueError, match='64 x 48.*min_size(.*\n)*.*no sam'):
        refuse_faults(cfg, ('train', ))


# Where files are looked for


def png(root: Path) -> str:
    path = root / 'JPEGImages/000.jpg'
    with Image.open(path) as image:
        image.save(path.with_suffix('.png'))
    path.unlink()
    return 'there is 000.png.*asks for .jpg'


def doubled(root: Path) -> str:
    rewrite(root / TRAIN,
            lambda c: c['images'][0].update(file_name='train/0.jpg'))
    return 'in the annotation and in data_prefix'


def marked(root: Path) -> str:
    path = root / 'ImageSets/Main/train.txt'
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    return 'the byte order mark of the list'


@pytest.mark.parametrize('kind, move', [
    ('voc', png), ('coco', doubled), ('voc', marked)])
def test_a_file_that_is_missed_is_near(kind, move, make):
    pytest.importorskip('mmdet.models')
    root = make(kind)
    words = move(root)
    report = check_path(kind, root)[0]
    assert re.search(words, json.dumps(report.findings))


# Categories of an evaluation


def test_a_category_that_the_evaluation_lacks(configure, tmp_path):
    """mmdet ends after the epoch with an IndexError."""
    cfg = configure('coco')
    rewrite(tmp_path / 'coco/annotations/instances_val.json',
            lambda c: (c['categories'].pop(), c['annotations'].__delitem__(
                slice(1, None))))
    with pytest.raises(ValueError, match="no category 'dog'.*IndexError"):
        refuse_faults(cfg, ('train', 'val'))


def test_an_evaluator_that_reads_another_file(configure, tmp_path):
    cfg = configure('coco')
    root = tmp_path / 'coco/annotations'
    shutil.copy(root / 'instances_val.json', root / 'copy.json')
    cfg.val_evaluator.ann_file = 'coco/annotations/copy.json'
    refuse_faults(cfg, ('val', ))
    rewrite(root / 'copy.json', lambda c: c['images'].pop())
    with pytest.raises(ValueError, match='lacks 1 of the 4 images'):
        refuse_faults(cfg, ('val', ))


def test_boxes_given_by_their_corners(make):
    pytest.importorskip('mmdet.models')
    root = make('coco')
    rewrite(root / TRAIN, lambda c: [
        box.update(bbox=[30, 20, 50, 44]) for box in c['annotations']])
    train, _ = check_path('coco', root)
    assert 'x, y, width, height' in train.findings['bad box'][0]


# Names that no person meant


@pytest.mark.parametrize('name', ['.ipynb_checkpoints', '__MACOSX', '.git'])
@pytest.mark.parametrize('kind, folders', [
    ('folder', ['train', 'val', 'train/cat']),
    ('pairs', ['images/train', 'images/val', 'labels/val'])])
def test_hidden_and_system_folders_are_no_data(kind, folders, name, configure,
                                               tmp_path, run_tool):
    cfg = configure(kind)
    for folder in folders:
        inside = tmp_path / kind / folder
        shutil.copytree(inside, inside / name)
        for file in ('Thumbs.db', '.DS_Store', '._0.jpg', 'desktop.ini'):
            (inside / file).write_bytes(b'x')
    for report in [*check_config(cfg), *check_path(kind, tmp_path / kind)]:
        assert report.findings == {} and report.images == NUMBER
    cfg = write_config(kind, tmp_path / kind, tmp_path / 'again.py',
                       BASES[kind])
    assert len(cfg.metainfo.classes) == 2
    refuse_faults(cfg, ('train', 'val'))


@pytest.mark.parametrize('kind', ['folder'])
def test_a_training_passes_over_hidden_folders(kind, configure, tmp_path,
                                               run_tool):
    cfg = configure(kind)
    del cfg.train_dataloader.dataset['metainfo']
    cfg.train_dataloader.dataset.type = 'CustomDataset'
    cfg.dump('my.py')
    for part in ('train', 'val'):
        shutil.copytree(tmp_path / kind / part / 'cat',
                        tmp_path / kind / part / '.ipynb_checkpoints')
    run_tool('train.py', 'my.py', '--work-dir', 'work', '--cfg-options',
             'train_cfg.max_epochs=1', 'train_dataloader.num_workers=0')
    assert list((tmp_path / 'work').glob('*.pth'))


# Encodings


@pytest.mark.parametrize('kind', ['coco'])
def test_a_json_in_another_encoding(kind, configure, tmp_path, run_tool):
    configure(kind).dump('my.py')
    path = tmp_path / kind / TRAIN
    text = path.read_text().replace('cat', 'na\xefve')
    path.write_bytes(text.encode('latin-1'))
    for arguments in (['train.py', 'my.py', '--work-dir', 'work'],
                      ['prepare_data.py', 'check', kind, kind],
                      ['prepare_data.py', 'config', kind, kind, '--out',
                       'other.py']):
        with pytest.raises(SystemExit) as done:
            run_tool(*arguments)
        said = str(done.value.code)
        assert 'no UTF-8: byte 0xef' in said and len(said) < 1000
    assert not (tmp_path / 'other.py').exists()


def test_a_json_with_a_byte_order_mark(configure, tmp_path):
    """pycocotools cannot read it."""
    cfg = configure('coco')
    path = tmp_path / 'coco' / TRAIN
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    with pytest.raises(ValueError, match='byte order mark; save it as UTF-8'):
        refuse_faults(cfg, ('train', ))


def test_a_list_of_classes_with_a_byte_order_mark(make, tmp_path):
    path = make('pairs') / 'classes.txt'
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    cfg = write_config('pairs', path.parent, tmp_path / 'my.py',
                       'seg/qsdt_fpn_digits')
    assert tuple(cfg.metainfo.classes) == ('ground', 'figure')


# What is no class in label maps


def relabel(root: Path, change: Callable) -> None:
    for path in root.glob('labels/*/*.png'):
        with Image.open(path) as image:
            pixels = np.array(image)
        Image.fromarray(change(pixels)).save(path)


def test_the_ignored_label_is_the_configs(configure, tmp_path, run_tool):
    cfg = configure('pairs')
    relabel(tmp_path / 'pairs', lambda a: np.where(a == 255, 2, a).astype(
        np.uint8))
    report, *_ = check_config(cfg)
    assert len(report.findings['wrong label']) == NUMBER
    for part in (cfg.model.decode_head, cfg.model.auxiliary_head,
                 cfg.val_evaluator, cfg.test_evaluator):
        part.ignore_index = 2
    cfg.model.data_preprocessor.seg_pad_val = 2
    for step in cfg.train_dataloader.dataset.pipeline:
        if 'seg_pad_val' in step:
            step.seg_pad_val = 2
    for report in check_config(cfg):
        assert report.findings == {}
    cfg.dump('my.py')
    options = [f'{part}_dataloader.{key}' for part in ('train', 'val')
               for key in ('num_workers=0', 'batch_size=2')]
    run_tool('train.py', 'my.py', '--work-dir', 'work', '--cfg-options',
             'train_cfg.max_iters=1', 'train_cfg.val_interval=1', *options,
             'train_dataloader.dataset.pipeline.4.cat_max_ratio=1.')
    log, = (tmp_path / 'work').glob('*/*.log')
    assert 'left out of training' not in log.read_text()


@pytest.mark.parametrize('zero', [False, True])
def test_a_class_that_is_ignored_is_asked_for(zero, configure, tmp_path,
                                              capsys):
    cfg = configure('pairs')
    relabel(tmp_path / 'pairs', lambda a: np.where(a == 1, 255, 0).astype(
        np.uint8) if not zero else np.where(a == 1, 1, 0).astype(np.uint8))
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.reduce_zero_label = zero
    words = '0 and 255, which' if zero else 'figure; 255, which is ignored'
    for report in check_config(cfg):
        assert words in report.findings['class without samples'][0]


# Predictions alone need no truth


def forget_truth(kind: str, root: Path) -> None:
    if kind == 'coco':
        rewrite(root / 'annotations/instances_val.json',
                lambda c: c.pop('annotations'))
    else:
        shutil.rmtree(root / 'labels/val')


@pytest.mark.parametrize('kind', ['coco', 'pairs'])
def test_a_part_without_truth_is_predicted_on(kind, configure, tmp_path,
                                              run_tool):
    cfg = configure(kind)
    torch.save(dict(state_dict=build_model(cfg).state_dict()), 'x.pth')
    dataset = cfg.test_dataloader.dataset
    if kind == 'pairs':
        dataset.data_prefix = dict(img_path=dataset.data_prefix.img_path)
        dataset.pipeline = [step for step in dataset.pipeline
                            if step.type != 'LoadAnnotations']
    forget_truth(kind, tmp_path / kind)
    with pytest.raises(ValueError):
        refuse_faults(cfg, ('test', ))
    cfg.test_evaluator.format_only = True
    cfg.test_evaluator['outfile_prefix' if kind == 'coco' else
                       'output_dir'] = 'results'
    assert check_config(cfg, ('test', ))[0].errors == 0
    cfg.dump('my.py')
    run_tool('test.py', 'my.py', 'x.pth', '--work-dir', 'work',
             '--cfg-options', 'test_dataloader.num_workers=0')
    assert list(tmp_path.glob('results*'))


def test_more_samples_than_one_process_takes(make, monkeypatch):
    """Worker processes find the same."""
    pytest.importorskip('mmpretrain.models')
    root = make('folder')
    (root / 'train/dog/1.jpg').write_bytes(b'')
    picture(root / 'train/cat/0.jpg', size=(1, 1))
    alone = check_path('folder', root)
    monkeypatch.setattr('mmqsdt.data.samples.FEW', 0)
    assert check_path('folder', root) == alone
