"""Conversions of small parquet files in the hub's schemas."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from rich.console import Console

datasets = pytest.importorskip('datasets')

from mmqsdt.data import ade150, huggingface, parquet  # noqa: E402
from mmqsdt.data.check import check_path  # noqa: E402
from mmqsdt.data.huggingface import (  # noqa: E402
    convert_ade20k,
    convert_coco,
    convert_imagenet,
)

SYNSETS = ('n01440764', 'n01443537', 'n01484850')


def encoded(seed: int = 0, size: tuple[int, int] = (48, 32),
            kind: str = 'JPEG') -> bytes:
    """A random image file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3))
    return huggingface.encode(Pillow.fromarray(pixels.astype(np.uint8)), kind)


def write_parquet(path: Path, rows: list[dict], features: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(
        rows, features=datasets.Features(features)).to_parquet(path)


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob('*')) if path.is_file()
            and not path.name.startswith('.') and '.parts' not in path.parts}


def interrupt_after(monkeypatch, number: int) -> None:
    """The conversion stops while it writes one file more than this."""
    write, left = huggingface.write_whole, [number]

    def fail(path: Path, content: bytes) -> None:
        if left[0] == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name + '.part').write_bytes(content[:3])
            raise KeyboardInterrupt
        left[0] -= 1
        write(path, content)

    monkeypatch.setattr(huggingface, 'write_whole', fail)


def imagenet(source: Path, named: bool = True) -> None:
    """Two training files, a validation and a test file."""
    features = dict(image=datasets.Image(), label=datasets.ClassLabel(
        names=['tench, Tinca tinca', 'goldfish', 'great white shark']))

    def row(name: str, label: int, seed: int) -> dict:
        suffix = f'_{SYNSETS[label]}' if label >= 0 else ''
        path = f'{name}{suffix}.JPEG' if named else None
        return dict(image=dict(bytes=encoded(seed), path=path), label=label)

    for k in range(2):
        write_parquet(
            source / f'data/train-{k:05d}-of-00002.parquet',
            [row(f'{SYNSETS[i]}_{10 * k + i}', i, 10 * k + i)
             for i in range(3)], features)
    write_parquet(source / 'data/validation-00000-of-00001.parquet',
                  [row(f'ILSVRC2012_val_{i:08d}', 2 - i, 20 + i)
                   for i in range(3)], features)
    write_parquet(source / 'data/test-00000-of-00001.parquet',
                  [row('ILSVRC2012_test_00000001', -1, 30)], features)


def test_imagenet(tmp_path):
    imagenet(tmp_path / 'hub')
    lines = convert_imagenet(tmp_path / 'hub', tmp_path / 'out')
    assert '9 images of 3 classes, 1 test images' in lines[0]
    files = read_all(tmp_path / 'out')
    assert len(files) == 9
    assert files['train/n01443537/n01443537_11.JPEG'] == encoded(11)
    assert files['val/n01440764/ILSVRC2012_val_00000002.JPEG'] == encoded(22)
    for report in check_path('folder', tmp_path / 'out'):
        assert report.errors == 0
        assert tuple(report.classes) == SYNSETS


def test_imagenet_without_file_names_keeps_the_order_of_labels(tmp_path):
    imagenet(tmp_path / 'hub', named=False)
    convert_imagenet(tmp_path / 'hub', tmp_path / 'out')
    for part in ('train', 'val'):
        assert sorted(p.name for p in (tmp_path / 'out' / part).iterdir()) \
            == ['0000', '0001', '0002']


def test_labels_that_do_not_agree_with_the_names(tmp_path):
    imagenet(tmp_path / 'hub')
    features = dict(image=datasets.Image(), label=datasets.Value('int64'))
    write_parquet(tmp_path / 'hub/data/train-00002-of-00003.parquet', [
        dict(image=dict(bytes=encoded(), path=f'x_{SYNSETS[0]}.JPEG'),
             label=1)], features)
    with pytest.raises(ValueError, match='label 1 is of n01443537 elsewhere'):
        convert_imagenet(tmp_path / 'hub', tmp_path / 'out')


def coco(source: Path, corners: bool = True, categories: int = 3) -> None:
    box = datasets.Sequence(dict(
        bbox_id=datasets.Value('int64'),
        category=datasets.ClassLabel(
            names=[f'class {i}' for i in range(categories)]),
        bbox=datasets.Sequence(datasets.Value('float64'), length=4),
        area=datasets.Value('int64')))
    features = dict(
        image_id=datasets.Value('int64'), image=datasets.Image(),
        width=datasets.Value('int64'), height=datasets.Value('int64'),
        objects=box)
    for split, first in (('train', 0), ('val', 10)):
        rows = []
        for i in range(first, first + 3):
            sizes = [[30., 20., 10., 8.], [2., 3., 40., 20.]]
            boxes = [[x, y, x + w, y + h] if corners else [x, y, w, h]
                     for x, y, w, h in sizes]
            rows.append(dict(
                image_id=i, image=dict(bytes=encoded(i), path=None),
                width=48, height=32, objects=dict(
                    bbox_id=[2 * i, 2 * i + 1],
                    category=[0, categories - 1], bbox=boxes,
                    area=[70, 700])))
        write_parquet(source / f'data/{split}-00000-of-00001.parquet', rows,
                      features)


@pytest.mark.parametrize('corners', [True, False])
def test_coco_in_both_formats_of_boxes(corners, tmp_path):
    coco(tmp_path / 'hub', corners)
    lines = convert_coco(tmp_path / 'hub', tmp_path / 'out')
    assert '6 images, 12 boxes' in lines[0]
    assert f'by their {"corners" if corners else "sizes"}' in lines[0]
    assert 'no masks and no crowd flags' in lines[1]
    path = tmp_path / 'out/annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    assert content['categories'] == [
        dict(id=i + 1, name=f'class {i}') for i in range(3)]
    first, second = content['annotations'][:2]
    assert first == dict(id=1, image_id=10, category_id=1, area=70, iscrowd=0,
                         bbox=[30, 20, 10, 8])
    assert second['bbox'] == [2, 3, 40, 20] and second['category_id'] == 3
    files = read_all(tmp_path / 'out')
    assert files['val2017/000000000011.jpg'] == encoded(11)
    for report in check_path('coco', tmp_path / 'out'):
        assert (report.images, report.annotations) == (3, 6)
        # No box of the second class; nothing else is wrong.
        assert list(report.findings) == ['class without samples']


def test_cocos_own_classes_have_its_numbers(tmp_path):
    coco(tmp_path / 'hub', categories=80)
    convert_coco(tmp_path / 'hub', tmp_path / 'out')
    path = tmp_path / 'out/annotations/instances_train2017.json'
    numbers = [c['id'] for c in json.loads(path.read_text())['categories']]
    assert len(numbers) == 80
    assert (numbers[11], numbers[-1]) == (13, 90)


def test_boxes_that_fit_in_both_formats_need_a_word(tmp_path):
    part = dict(images=[dict(id=0, width=48, height=32)],
                objects=[dict(image_id=0, bbox=[1, 1, 9, 9])])
    with pytest.raises(ValueError, match='--boxes corners or sizes'):
        huggingface.box_format([part])


# The classes of ADE20K in ADE_train_00016869.json of the release of 2021.
KNOWN = {2836: 137, 401: 21, 2380: 44, 64: 139, 1831: 13, 312: 2, 2377: 12,
         2855: 5}


def test_the_mapping_of_ade20k_is_the_published_one():
    pixels = np.zeros((1, len(KNOWN) + 2, 3), np.uint8)
    for column, code in enumerate([*KNOWN, 1279, 0]):  # housing, nothing
        pixels[0, column, :2] = code // 256 * 10, code % 256
    assert ade150.to_150(pixels)[0].tolist() == [*KNOWN.values(), 0, 0]
    assert len(ade150.SOURCES) == 150
    codes = [code for each in ade150.SOURCES for code in each]
    assert len(codes) == len(set(codes)) == 153
    assert [i for i, each in enumerate(ade150.SOURCES, 1)
            if len(each) == 2] == [15, 36, 89]


@pytest.mark.parametrize('size, expected', [
    ((2048, 1536), (683, 512)), ((600, 900), (512, 768)),
    ((400, 900), (400, 900)), ((700, 700), (700, 700))])
def test_sizes_of_the_benchmark(size, expected):
    assert ade150.benchmark_size(*size) == expected


def ade(source: Path) -> None:
    features = dict(
        image=datasets.Image(mode='RGB'),
        segmentations=datasets.Sequence(datasets.Image(mode='RGB')),
        instances=datasets.Sequence(datasets.Image(mode='L')),
        filename=datasets.Value('string'),
        folder=datasets.Value('string'))
    names = dict(
        train=['ADE_train_00000001', 'ADE_train_00020211',
               'ADE_frame_00000007'],
        validation=['ADE_val_00000001'])
    for split, stems in names.items():
        rows = []
        for seed, stem in enumerate(stems):
            size = (720, 540) if seed == 0 else (48, 32)
            codes = np.zeros((*size[::-1], 3), np.uint8)
            codes[:, :size[0] // 2, :2] = 2978 // 256 * 10, 2978 % 256  # wall
            codes[:2, :, 2] = 9  # instance numbers are of no matter
            rows.append(dict(
                image=dict(bytes=encoded(seed, size), path=None),
                segmentations=[
                    dict(bytes=huggingface.encode(Pillow.fromarray(x), 'PNG'),
                         path=None) for x in (codes, codes * 0)],
                instances=[], filename=f'{stem}.jpg',
                folder='ADE20K_2021_17_01/images/ADE/training/urban/street'))
        write_parquet(source / f'data/{split}-00000-of-00001.parquet', rows,
                      features)


def test_ade20k(tmp_path):
    ade(tmp_path / 'hub')
    lines = convert_ade20k(tmp_path / 'hub', tmp_path / 'out')
    assert '2 images of the 22210 of the benchmark, 2 others' in lines[0]
    assert 'not the archive' in lines[1]
    files = read_all(tmp_path / 'out')
    assert set(files) == {
        f'{kind}/{part}/ADE_{name}_00000001.{suffix}'
        for kind, suffix in (('images', 'jpg'), ('annotations', 'png'))
        for part, name in (('training', 'train'), ('validation', 'val'))
    }
    labels = np.asarray(Pillow.open(io.BytesIO(
        files['annotations/training/ADE_train_00000001.png'])))
    assert labels.shape == (512, 683)
    assert set(np.unique(labels[:, :340])) == {1}
    assert set(np.unique(labels[:, 343:])) == {0}
    for report in check_path('pairs', tmp_path / 'out', ('wall', 'sky'),
                             ignore_zero=True):
        assert report.errors == 0 and report.classes['wall'] == 1


CONVERSIONS = dict(imagenet=(imagenet, convert_imagenet, 5),
                   coco=(coco, convert_coco, 2),
                   ade20k=(ade, convert_ade20k, 1))


@pytest.mark.parametrize('name', CONVERSIONS)
def test_an_interrupted_conversion_goes_on(name, tmp_path, monkeypatch):
    make, convert, files = CONVERSIONS[name]
    make(tmp_path / 'hub')
    whole, out = tmp_path / 'whole', tmp_path / 'out'
    said = convert(tmp_path / 'hub', whole)
    with monkeypatch.context() as patch:
        interrupt_after(patch, files)
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path / 'hub', out)
    images = [p for p in out.rglob('*') if p.suffix in (
        '.jpg', '.JPEG', '.png')]
    assert images  # not one of them is half
    before = {path: path.stat().st_mtime_ns for path in images}
    again = convert(tmp_path / 'hub', out)
    assert {k: v for k, v in read_all(out).items()
            if not k.endswith('.part')} == read_all(whole)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert [line.replace(str(out), str(whole)) for line in again] == said
    assert not list(out.rglob('*.part'))


def test_what_is_done_is_not_read_again(tmp_path, monkeypatch):
    imagenet(tmp_path / 'hub')
    convert_imagenet(tmp_path / 'hub', tmp_path / 'out')
    monkeypatch.setattr(parquet, 'read_rows', None)
    lines = convert_imagenet(tmp_path / 'hub', tmp_path / 'out')
    assert '9 images' in lines[0]


def test_a_bar_shows_progress_on_a_terminal(tmp_path, monkeypatch, capsys):
    imagenet(tmp_path / 'hub')
    capsys.readouterr()
    convert_imagenet(tmp_path / 'hub', tmp_path / 'out')
    assert capsys.readouterr().err == ''  # no terminal, no bar
    shown = io.StringIO()
    monkeypatch.setattr(parquet, 'Console', lambda **kwargs: Console(
        file=shown, force_terminal=True, width=80))
    convert_imagenet(tmp_path / 'hub', tmp_path / 'again')
    assert 'rows' in shown.getvalue() and '100%' in shown.getvalue()


@pytest.mark.parametrize('name, words', [
    ('data-00000.parquet', 'names no split'),
    ('train-00000-of-00001.parquet', 'no column image; it has label'),
    ('notes.txt', 'no .parquet files'),
])
def test_other_files_are_refused(name, words, tmp_path):
    source = tmp_path / 'hub'
    source.mkdir()
    if name.endswith('.parquet'):
        write_parquet(source / name, [dict(label=0)],
                      dict(label=datasets.Value('int64')))
    with pytest.raises((OSError, ValueError), match=words):
        convert_imagenet(source, tmp_path / 'out')


def test_another_data_set_in_the_folder(tmp_path):
    imagenet(tmp_path / 'hub')
    convert_imagenet(tmp_path / 'hub', tmp_path / 'out')
    with pytest.raises(ValueError, match='holds imagenet'):
        convert_coco(tmp_path / 'hub', tmp_path / 'out')


def test_the_tool(run_tool, tmp_path, capsys):
    coco(tmp_path / 'hub')
    run_tool('prepare_data.py', 'huggingface', 'coco', 'hub', 'data/coco')
    assert '6 images, 12 boxes' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='--boxes is of coco'):
        run_tool('prepare_data.py', 'huggingface', 'imagenet', 'hub', 'x',
                 '--boxes', 'sizes')


def test_without_the_library_the_remedy_is_named(run_tool, monkeypatch,
                                                 tmp_path):
    for name in ('huggingface', 'parquet'):
        monkeypatch.delitem(sys.modules, f'mmqsdt.data.{name}')
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(SystemExit, match=r'pip install "mmqsdt\[data\]"'):
        run_tool('prepare_data.py', 'huggingface', 'coco', 'hub', 'x')
