"""Every fault that the check knows is found where it was put, and named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from PIL import Image
from small_data import NUMBER, picture

from mmqsdt.data.check import check_config, check_path
from mmqsdt.data.report import ERROR, FAULTS

FIRST = dict(folder='train/cat/0.jpg', coco='train/0.jpg',
             pairs='images/train/0.jpg', voc='JPEGImages/000.jpg')


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:900])


def rewrite(path: Path, change: Callable[[Image.Image], Image.Image]) -> None:
    with Image.open(path) as image:
        image.load()
    change(image).save(path)


IMAGE_FAULTS = {
    'missing image': Path.unlink,
    'empty file': lambda path: path.write_bytes(b''),
    'truncated image': cut,
    'broken image': lambda path: path.write_bytes(b'no image at all'),
    'odd mode': lambda path: rewrite(path, lambda x: x.convert('CMYK')),
    'tiny image': lambda path: picture(path, size=(1, 1)),
    'long image': lambda path: picture(path, size=(10000, 20)),
}


@pytest.mark.parametrize('kind', FIRST)
def test_nothing_is_wrong_with_good_data(kind, make):
    train, val = check_path(kind, make(kind))
    names = ('ground', 'figure') if kind == 'pairs' else ('cat', 'dog')
    each = NUMBER if kind == 'pairs' else NUMBER // 2
    for report in (train, val):
        assert report.findings == {}
        assert (report.images, report.annotations) == (NUMBER, NUMBER)
        assert report.classes == dict.fromkeys(names, each)


# Where the folder is the list, a file that is not there is not missed.
@pytest.mark.parametrize('kind, fault', [
    (kind, fault) for kind in FIRST for fault in IMAGE_FAULTS
    if fault != 'missing image' or kind in ('coco', 'voc')
])
def test_faults_of_images(kind, fault, make):
    root = make(kind)
    path = root / FIRST[kind]
    IMAGE_FAULTS[fault](path)
    train, val = check_path(kind, root)
    assert val.findings == {}
    found, = train.findings[fault]
    assert found.startswith(str(path))
    # An image of another size does not fit its annotation either.
    more = {'wrong size'} if kind != 'folder' and fault in (
        'tiny image', 'long image') else set()
    assert set(train.findings) - {fault} == more


def test_a_whole_jpeg_with_data_behind_it_is_whole(make):
    root = make('folder')
    path = root / FIRST['folder']
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert check_path('folder', root)[0].findings == {}


def test_images_turned_by_exif_fit_if_annotated_as_shown(make, edit_json):
    root = make('coco')
    path = root / FIRST['coco']
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif)
    turned, _ = check_path('coco', root)
    assert list(turned.findings) == ['wrong size']
    edit_json(root / 'annotations/instances_train.json',
              lambda c: c['images'][0].update(width=48, height=64))
    assert check_path('coco', root)[0].findings == {}


BOXES = {
    'box without area': lambda c: c['annotations'][0].update(
        bbox=[8, 8, 0, 24], area=0),
    'box outside': lambda c: c['annotations'][0].update(
        bbox=[50, 30, 90, 90]),
    'bad box': lambda c: c['annotations'][0].update(
        bbox=[8, 8, float('nan'), 8]),
    'unknown image': lambda c: c['annotations'][0].update(image_id=99),
    'unknown class': lambda c: c['annotations'][0].update(category_id=99),
    'duplicate id': lambda c: c['annotations'][0].update(id=1),
    'unreadable annotation': lambda c: c['images'][0].pop('width'),
    'class without samples': lambda c: c['categories'].append(
        dict(id=3, name='cow')),
    'image without annotation': lambda c: c['annotations'].pop(0),
    'no samples': lambda c: c['annotations'].clear(),
    'wrong size': lambda c: c['images'][0].update(width=48, height=64),
}


@pytest.mark.parametrize('fault', BOXES)
def test_faults_of_a_coco_json(fault, make, edit_json):
    root = make('coco')
    edit_json(root / 'annotations/instances_train.json', BOXES[fault])
    train, val = check_path('coco', root)
    assert fault in train.findings
    # A class that only training lists is missing in the other part.
    missing = {'class list', 'missing class', 'class without samples'}
    assert set(val.findings) == (
        missing if fault == 'class without samples' else set())


@pytest.mark.parametrize('names, faults', [
    (('cat', 'dog', 'cow'), {'missing class', 'class without samples'}),
    (('cat', ), {'unused class', 'image without annotation'}),
    (('cat', 'dogs'), {'missing class', 'unused class', 'class list',
                       'class without samples', 'image without annotation'}),
    (('dog', 'cat'), {'class list'}),
    (('cow', 'cat', 'dog'), {'class list', 'missing class',
                             'class without samples'}),
])
def test_classes_and_categories(names, faults, make):
    train, _ = check_path('coco', make('coco'), names)
    assert set(train.findings) == faults


def test_mmdet_numbers_categories_as_the_check_assumes(make):
    datasets = pytest.importorskip('mmdet.datasets')
    root = make('coco')
    made = datasets.CocoDataset(
        data_root=str(root), metainfo=dict(classes=('dog', 'cat')),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train'))
    # The first image shows a cat, which is the second of these classes.
    assert made.get_cat_ids(0) == [0]


@pytest.mark.parametrize('key', ['area', 'iscrowd', 'bbox', 'category_id'])
def test_annotations_that_lack_a_key(key, make, edit_json):
    root = make('coco')
    edit_json(root / 'annotations/instances_val.json',
              lambda c: c['annotations'][0].pop(key))
    _, val = check_path('coco', root)
    # Without a category pycocotools reads nothing of it.
    fault = 'unreadable annotation' if key == 'category_id' else 'bad box'
    assert f'no {key}' in val.findings[fault][0]


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"images": '])
def test_a_json_that_is_none(text, make):
    root = make('coco')
    (root / 'annotations/instances_train.json').write_text(text)
    with pytest.raises(ValueError, match='instances_train.json is no COCO'):
        check_path('coco', root)


def test_a_json_without_annotations(make, edit_json):
    root = make('coco')
    edit_json(root / 'annotations/instances_train.json',
              lambda content: content.pop('annotations'))
    train, _ = check_path('coco', root)
    assert 'no list annotations' in train.findings['unreadable annotation'][0]


XML_FAULTS = {
    'box without area': ('<xmax>28', '<xmax>9'),
    'box outside': ('<xmax>28', '<xmax>99'),
    'unreadable annotation': ('</annotation>', ''),
    'wrong size': ('<width>64', '<width>640'),
}


@pytest.mark.parametrize('fault', XML_FAULTS)
def test_faults_of_an_xml(fault, make):
    root = make('voc')
    path = root / 'Annotations/000.xml'
    path.write_text(path.read_text().replace(*XML_FAULTS[fault]))
    train, _ = check_path('voc', root, ('cat', 'dog'))
    assert fault in train.findings


def test_an_xml_that_defines_entities_is_not_expanded(make):
    root = make('voc')
    path = root / 'Annotations/000.xml'
    path.write_text('<!DOCTYPE a [<!ENTITY x "y">]>' + path.read_text())
    train, _ = check_path('voc', root)
    assert 'defines entities' in train.findings['unreadable annotation'][0]


def change_labels(path: Path, change: Callable) -> None:
    with Image.open(path) as image:
        pixels = np.array(image)
    Image.fromarray(change(pixels)).save(path)


LABEL_FAULTS = {
    'wrong label': lambda a: np.where(a == 1, 2, a).astype(np.uint8),
    'label map of colors': lambda a: np.stack([a] * 3, -1),
    'wrong size': lambda a: a[:30],
    'image without annotation': lambda a: np.full_like(a, 255),
}


@pytest.mark.parametrize('fault', LABEL_FAULTS)
def test_faults_of_a_label_map(fault, make):
    root = make('pairs')
    path = root / 'labels/train/0.png'
    change_labels(path, LABEL_FAULTS[fault])
    train, val = check_path('pairs', root)
    assert list(train.findings) == [fault]
    assert train.findings[fault][0].startswith(str(path))
    assert val.findings == {}


def test_labels_of_more_than_8_bits_are_wrong(make):
    """MMSegmentation would read 257 as 1."""
    root = make('pairs')
    change_labels(root / 'labels/train/0.png',
                  lambda a: a.astype(np.uint16) + 256)
    assert list(check_path('pairs', root)[0].findings) == ['wrong label']


def test_ignoring_zero_moves_the_labels(make):
    root = make('pairs')
    change_labels(root / 'labels/train/0.png',
                  lambda a: np.where(a == 1, 2, a).astype(np.uint8))
    train, _ = check_path('pairs', root, ignore_zero=True)
    assert 'wrong label' not in train.findings
    # 1 is the first class now, 2 the second.
    assert train.classes == dict(ground=NUMBER - 1, figure=1)


def test_images_and_label_maps_that_have_no_partner(make):
    root = make('pairs')
    (root / 'labels/train/0.png').unlink()
    (root / 'images/train/1.jpg').unlink()
    picture(root / 'images/train/other.png')
    train, _ = check_path('pairs', root)
    assert {f: len(w) for f, w in train.findings.items()} == {
        'file of another kind': 1, 'label map without image': 1,
        'image without label map': 1
    }


def test_folders_that_only_one_part_has(make):
    root = make('folder')
    (root / 'val/dog').rename(root / 'val/cow')
    _, val = check_path('folder', root)
    assert 'cow, dog' in val.findings['class list'][0]


# By a config, and by the tool.

CONFIG = """
_base_ = {base!r}
data_root = {root!r}
metainfo = dict(classes=('cat', 'dog'))
train_dataloader = dict(dataset=dict(
    data_root=data_root, metainfo=metainfo, data_prefix=dict(img='train/'),
    ann_file='annotations/instances_train.json'))
val_dataloader = dict(dataset=dict(
    data_root=data_root, metainfo=metainfo, data_prefix=dict(img='val/'),
    ann_file='annotations/instances_val.json'))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/annotations/instances_val.json')
test_evaluator = val_evaluator
"""


def test_a_config_whose_model_has_other_classes(make, tmp_path):
    """What is left after the paths were changed, and num_classes was not."""
    pytest.importorskip('mmdet.models')
    from mmqsdt import get_config_path
    root = make('coco')
    (tmp_path / 'my.py').write_text(CONFIG.format(
        base=get_config_path('det/qsdt_maskrcnn_digits.py'), root=str(root)))
    reports = check_config(Config.fromfile(tmp_path / 'my.py'))
    assert len(reports) == 2  # val and test are the same
    for report in reports:
        assert 'num_classes 10, the data 2' in report.findings[
            'class list'][0]


class TwoImages(BaseDataset):
    """A data set of somebody's own, whose second sample is broken."""

    METAINFO = dict(classes=('cat', 'dog', 'owl'))

    def load_data_list(self):
        return [dict(gt_label=label) for label in (0, 1)]

    def prepare_data(self, index):
        if index:
            raise OSError('nothing here')
        return self.pipeline(self.get_data_info(index))


def test_types_of_ones_own_are_run_too():
    cfg = Config(dict(default_scope='mmengine', train_dataloader=dict(
        dataset=dict(type=TwoImages, pipeline=[]))))
    report, = check_config(cfg)
    assert report.classes == dict(cat=1, dog=1, owl=0)
    assert set(report.findings) == {'class without samples',
                                    'failing pipeline'}
    assert 'nothing here' in report.findings['failing pipeline'][0]


def test_data_that_are_not_there_are_looked_for(tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain.models')
    from mmqsdt import get_config_path
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(get_config_path('cls/qsdt_cifar10.py'))
    with pytest.raises(FileNotFoundError, match='cs.toronto.edu'):
        check_config(cfg)


def test_the_tool_prints_writes_json_and_exits(make, run_tool, tmp_path,
                                               capsys):
    path = make('coco') / 'train/0.jpg'
    with pytest.raises(SystemExit) as done:
        run_tool('prepare_data.py', 'check', 'coco', 'coco')
    assert done.value.code == 0
    assert 'no errors' in capsys.readouterr().out
    path.write_bytes(b'')
    with pytest.raises(SystemExit) as done:
        run_tool('prepare_data.py', 'check', 'coco', 'coco', '--json',
                 'found.json')
    assert done.value.code == 1
    out = capsys.readouterr().out
    assert 'empty file' in out and '1 errors' in out
    found = json.loads((tmp_path / 'found.json').read_text())
    assert found['errors'] == 1
    fault, = found['parts'][0]['findings']
    assert fault['fault'] == 'empty file' and fault['level'] == ERROR
    assert fault['where'] == ['coco/train/0.jpg']


def test_warnings_are_no_errors(make, run_tool):
    picture(make('folder') / FIRST['folder'], size=(1, 1))
    with pytest.raises(SystemExit) as done:
        run_tool('prepare_data.py', 'check', 'folder', 'folder')
    assert done.value.code == 0


@pytest.mark.parametrize('args, words', [
    (['coco', 'nowhere'], 'no folder nowhere'),
    (['voc', 'coco'], 'ImageSets/Main/train.txt'),
    (['no_such_config'], 'no config at no_such_config'),
])
def test_bad_arguments_of_the_tool(args, words, make, run_tool):
    make('coco')
    with pytest.raises(SystemExit, match=words):
        run_tool('prepare_data.py', 'check', *args)


def test_faults_have_a_level_and_a_consequence():
    for level, consequence in FAULTS.values():
        assert level in ('error', 'warning') and consequence
