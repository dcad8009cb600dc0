"""Config, model, data and checkpoint: what does not agree is refused."""

import copy
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmqsdt.data.check import check_config
from mmqsdt.data.questions import PARTS, ask, questions
from mmqsdt.data.report import FAULTS
from mmqsdt.data.saved import parse_config
from mmqsdt.utils.build import build_model

KINDS = ('folder', 'coco', 'pairs', 'voc')
HEADS = [
    ('folder', 'head'), ('folder', 'data_preprocessor'),
    ('coco', 'roi_head.bbox_head'), ('coco', 'roi_head.mask_head'),
    ('voc', 'bbox_head'), ('pairs', 'decode_head'),
    ('pairs', 'auxiliary_head')
]
# A config of each kind says so, or by default its head does.
DEFAULTS = [('coco', 'roi_head.bbox_head'), ('coco', 'roi_head.mask_head')]


def answers(cfg: Config, *args) -> list[tuple[str, str]]:
    """Fault and text of all that does not agree."""
    return [answer[1:] for answer in questions(cfg, PARTS, *args)]


def datasets(cfg: Config) -> list[dict]:
    return [cfg[f'{part}_dataloader'].dataset for part in PARTS]


@pytest.mark.parametrize('kind', KINDS)
def test_good_configs_agree(kind, configure):
    cfg = configure(kind)
    assert answers(cfg) == []
    ask(cfg, PARTS)


@pytest.mark.parametrize('number', [1, 3])
@pytest.mark.parametrize('kind, head', HEADS)
def test_every_head_has_the_number_of_the_data(kind, head, number, configure):
    cfg = configure(kind)
    cfg.merge_from_dict({f'model.{head}.num_classes': number})
    text = f'model.{head} has num_classes {number}, the data 2 classes'
    assert {fault for fault, _ in answers(cfg)} == {'class list'}
    with pytest.raises(ValueError, match=f'train, val: {text}'):
        ask(cfg, ('train', 'val'))
    for report in check_config(cfg):
        assert any(text in found for found in report.findings['class list'])


@pytest.mark.parametrize('kind, head', DEFAULTS)
def test_a_head_that_does_not_say_has_its_default(kind, head, configure):
    cfg = configure(kind)
    part = cfg.model
    for key in head.split('.'):
        part = part[key]
    del part['num_classes']
    (_, text), *_ = answers(cfg)
    assert f'{head} has num_classes 80, its default' in text


def test_the_heads_of_a_cascade_are_all_asked(make, tmp_path):
    pytest.importorskip('mmdet.models')
    from mmqsdt.data.own_data import write_config
    cfg = write_config('coco', make('coco'), tmp_path / 'my.py',
                       'det/qsdt_cascade-maskrcnn_digits')
    cfg.model.roi_head.bbox_head[1].num_classes = 7
    (_, text), *_ = answers(cfg)
    assert 'model.roi_head.bbox_head.1 has num_classes 7' in text


def text_for_a_tuple(cfg: Config) -> None:
    for dataset in datasets(cfg):
        dataset.metainfo.classes = 'cat'


def rename(*names: object):
    def change(cfg: Config) -> None:
        for dataset in datasets(cfg):
            dataset.metainfo.classes = names
    return change


def capitals(cfg: Config) -> None:
    for dataset in datasets(cfg):
        dataset.metainfo = dict(CLASSES=('cat', 'dog'))


NAMES = {
    'text': (text_for_a_tuple, "the text 'cat'.*comma"),
    'empty': (rename('cat', ''), 'class 1 has an empty name'),
    'blank': (rename('cat', ' '), 'class 1 has an empty name'),
    'double': (rename('cat', 'cat'), "class 1 is called 'cat' as class 0"),
    'number': (rename(0, 1), 'class 0 is 0, a int'),
    'mark': (rename('\ufeffcat', 'dog'), 'byte order mark'),
    'capitals': (capitals, 'CLASSES, which nothing reads: write classes'),
}


@pytest.mark.parametrize('fault', NAMES)
@pytest.mark.parametrize('kind', KINDS)
def test_names_of_classes(kind, fault, configure):
    change, words = NAMES[fault]
    cfg = configure(kind)
    change(cfg)
    assert 'class names' in {name for name, _ in answers(cfg)}
    with pytest.raises(ValueError, match=words):
        ask(cfg, ('test', ))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('part', ['val', 'test'])
def test_parts_have_the_same_classes_in_the_same_order(kind, part, configure):
    cfg = configure(kind)
    dataset = copy.deepcopy(cfg[f'{part}_dataloader'].dataset)
    cfg[f'{part}_dataloader'].dataset = dataset
    dataset.metainfo.classes = dataset.metainfo.classes[::-1]
    with pytest.raises(ValueError, match=f'{part}: .*another order'):
        ask(cfg, (part, ))
    dataset.metainfo.classes = ('cat', 'owl')
    with pytest.raises(ValueError, match=f'{part}: .*not in both: .*owl'):
        ask(cfg, (part, ))


WRAPPERS = {
    'ConcatDataset': lambda a, b: dict(
        type='ConcatDataset', datasets=[a, b], ignore_keys=['classes']),
    'nested': lambda a, b: dict(type='ConcatDataset', datasets=[
        dict(type='RepeatDataset', times=2, dataset=a),
        dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=b)]),
    'SkipBroken': lambda a, b: dict(type='ConcatDataset', datasets=[
        dict(type='mmqsdt.SkipBroken', dataset=each) for each in (a, b)]),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
@pytest.mark.parametrize('kind', KINDS)
def test_sets_that_are_joined_have_the_same_classes(kind, wrapper, configure):
    cfg = configure(kind)
    dataset = cfg.train_dataloader.dataset
    other = copy.deepcopy(dataset)
    cfg.train_dataloader.dataset = WRAPPERS[wrapper](dataset, other)
    ask(cfg, ('train', ))
    other.metainfo.classes = ('owl', 'dog')
    cfg.train_dataloader.dataset = WRAPPERS[wrapper](dataset, other)
    with pytest.raises(ValueError, match='train: .*not in both: .*owl'):
        ask(cfg, ('train', ))


def test_folders_are_numbered_by_their_names(configure, tmp_path):
    cfg = configure('folder')
    for dataset in datasets(cfg):
        dataset.metainfo.classes = ('dog', 'cat')
    with pytest.raises(ValueError, match="'cat' is class 0.*calls 'dog'"):
        ask(cfg, ('train', ))


def test_folders_of_the_parts_have_the_same_names(configure, tmp_path):
    cfg = configure('folder')
    (tmp_path / 'folder/val/dog').rename(tmp_path / 'folder/val/cow')
    with pytest.raises(ValueError, match='different folders.*cow, dog'):
        ask(cfg, ('val', ))
    (tmp_path / 'folder/val/owl').mkdir()
    with pytest.raises(ValueError, match='3 folders, but 2 classes'):
        ask(cfg, ('val', ))


def test_folders_name_the_classes_where_the_config_does_not(configure):
    cfg = configure('folder')
    for dataset in datasets(cfg):
        dataset.type = 'CustomDataset'
        del dataset['metainfo']
    assert answers(cfg) == []
    cfg.model.head.num_classes = 3
    assert 'the data 2 classes (cat, dog)' in answers(cfg)[0][1]


def no_masks(cfg: Config) -> None:
    for step in cfg.train_dataloader.dataset.pipeline:
        step.pop('with_mask', None)


def boxes_only(cfg: Config) -> None:
    del cfg.model.roi_head['mask_head']


def grey(cfg: Config) -> None:
    cfg.train_dataloader.dataset.pipeline[0].color_type = 'grayscale'


def same_data(cfg: Config) -> None:
    part = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(
        cfg.train_dataloader.dataset, pipeline=part.pipeline, test_mode=True)


def one_channel(cfg: Config) -> None:
    cfg.model.backbone.in_channels = 1


OTHERS = [
    ('coco', no_masks, 'mask head', 'with_mask=True'),
    ('coco', boxes_only, 'mask head', "val_evaluator scores masks.*'segm'"),
    *((kind, grey, 'channels', 'reads 3 channels.*gives 1')
      for kind in KINDS),
    *((kind, one_channel, 'channels', "gives 3: color_type='grayscale'")
      for kind in KINDS),
    ('coco', one_channel, 'channels', 'a mean for 3'),
    ('coco', one_channel, 'channels', 'bgr_to_rgb=False'),
    ('folder', lambda cfg: cfg.val_evaluator.update(topk=(1, 5)), 'score',
     r'the 5 best of 2 classes: topk=\(1,\)'),
    ('pairs', lambda cfg: cfg.val_evaluator.update(ignore_index=2),
     'ignored label', 'ignores label 2, the decode_head 255'),
    ('pairs', lambda cfg: cfg.model.decode_head.update(ignore_index=2),
     'ignored label', 'seg_pad_val fills label maps with 255.*loss fails'),
    *((kind, same_data, 'same data', 'what is trained on') for kind in KINDS),
    ('pairs', lambda cfg: cfg.model.decode_head.loss_decode.update(
        class_weight=[1., 2., 3.]), 'class list', '3 weights'),
]


@pytest.mark.parametrize('kind, change, fault, words', OTHERS)
def test_other_things_that_must_agree(kind, change, fault, words, configure):
    cfg = configure(kind)
    change(cfg)
    texts = '\n'.join(text for name, text in answers(cfg) if name == fault)
    assert texts
    if FAULTS[fault][0] == 'error':
        with pytest.raises(ValueError, match=words):
            ask(cfg, PARTS)
    else:
        ask(cfg, PARTS)
        assert re.search(words, texts)


def test_a_step_that_changes_channels_is_nobodys_fault(configure):
    cfg = configure('folder')
    one_channel(cfg)
    cfg.model.data_preprocessor.update(mean=[100.], std=[50.])
    for dataset in datasets(cfg):
        dataset.pipeline.insert(1, dict(type='mmseg.RGB2Gray'))
    assert answers(cfg) == []


# Checkpoints


def save(cfg: Config, path: Path, **changes: object) -> str:
    """What a runner saves, of a model with random weights."""
    theirs = copy.deepcopy(cfg)
    theirs.merge_from_dict(changes.pop('config', {}))
    classes = changes.pop('classes', cfg.metainfo.classes)
    torch.save(dict(
        state_dict=build_model(theirs).state_dict(),
        meta=dict(cfg=theirs.pretty_text,
                  dataset_meta=dict(classes=classes))), path)
    return str(path)


@pytest.mark.parametrize('kind', KINDS)
def test_bits_of_a_checkpoint(kind, configure, tmp_path):
    cfg = configure(kind)
    path = save(cfg, tmp_path / 'x.pth')
    assert answers(cfg, path) == []
    for bits in (2, None):
        cfg.model.backbone.weight_bits = bits
        with pytest.raises(ValueError, match='saved with model.backbone.'
                           f'weight_bits = 4, the config says {bits}'):
            ask(cfg, ('test', ), path)
        # A training that starts from it may have other bits.
        ask(cfg, ('train', ), path, trained=False)


def test_other_settings_are_said(configure, tmp_path):
    cfg = configure('folder')
    path = save(cfg, tmp_path / 'x.pth', config={
        'model.data_preprocessor.mean': [0., 0., 0.],
        'model.backbone.time_steps': 2})
    assert {fault for fault, _ in answers(cfg, path)} == {'other setting'}
    texts = ' '.join(text for _, text in answers(cfg, path))
    assert 'model.backbone.time_steps = 2' in texts
    assert 'model.data_preprocessor.mean = [0.0, 0.0, 0.0]' in texts


@pytest.mark.parametrize('classes, fault', [
    (('dog', 'cat'), 'checkpoint'), (('owl', 'cat'), 'other names'),
    (['cat', 'dog'], None), (None, None)])
def test_classes_of_a_checkpoint(classes, fault, configure, tmp_path):
    cfg = configure('coco')
    path = save(cfg, tmp_path / 'x.pth', classes=classes)
    assert {name for name, _ in answers(cfg, path)} == (
        {fault} if fault else set())


@pytest.mark.parametrize('text', [
    None, 3, 'a = (', 'import os', '__import__("os").system("x")',
    'a, b = 1, 2', 'a.b = 1', '(' * 1000])
def test_texts_that_are_no_config_are_none(text):
    assert parse_config(text) == {}


def test_the_text_of_a_config_is_read_without_running_it(configure):
    cfg = configure('coco')
    read = parse_config(cfg.pretty_text)
    assert read['model']['backbone'] == cfg.model.backbone.to_dict()
    code = 'model = dict(a=print("x"), b=[1, -2.5], c=dict([("d", 1)]))'
    assert parse_config(code)['model']['b'] == [1, -2.5]


# Every tool asks


TOOLS = {
    'train.py': ['--work-dir', 'work'],
    'test.py': ['x.pth', '--work-dir', 'work'],
    'predict.py': ['x.pth', 'PICTURE', '--out', 'work/out'],
    'energy.py': ['x.pth', '--work-dir', 'work'],
    'export_onnx.py': ['x.pth', 'x.onnx'],
}
PICTURES = dict(folder='folder/val/cat/0.jpg', coco='coco/val/0.jpg',
                pairs='pairs/images/val/0.jpg', voc='voc/JPEGImages/004.jpg')


@pytest.mark.parametrize('tool', TOOLS)
@pytest.mark.parametrize('kind', ['folder', 'coco', 'pairs'])
def test_every_tool_asks_in_the_same_words(kind, tool, configure, run_tool,
                                           tmp_path):
    if tool == 'export_onnx.py':
        pytest.importorskip('onnxruntime')
    cfg = configure(kind)
    path = save(cfg, tmp_path / 'x.pth')
    text_for_a_tuple(cfg)
    cfg.dump('my.py')
    with pytest.raises(ValueError, match="the text 'cat'") as asked:
        ask(cfg, ('test', ), path)
    line = str(asked.value).splitlines()[1].split(': ', 1)[1]
    arguments = [PICTURES[kind] if each == 'PICTURE' else each
                 for each in TOOLS[tool]]
    with pytest.raises(SystemExit) as done:
        run_tool(tool, 'my.py', *arguments)
    assert line in str(done.value.code)
    assert not (tmp_path / 'work').is_dir() or not any(
        (tmp_path / 'work').rglob('*.*'))
