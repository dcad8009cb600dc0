"""Predictions on pictures are those of the test run, on any kind of file."""

import json
import os
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from shared import run_tool
from test_configs import load

from mmqsdt.engine.predict import (
    Predictor,
    find_others,
    find_pictures,
    predict_pictures,
    read_picture,
    unused_name,
)
from mmqsdt.utils.build import build_model

HOME = Path(__file__).parents[2]
TASKS = {
    'cls/qsdt_digits.py': ('cls/val/3/*.png', 'pred_score', 'float'),
    'det/qsdt_maskrcnn-stock-heads_digits.py':
    ('det/val/*.jpg', 'pred_instances', 'integer'),
    'seg/qsdt_fpn-stock-head_digits.py':
    ('seg/images/validation/*.jpg', 'pred_sem_seg', 'spikes'),
}


# Reading


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    """(H, W, 3), different at every corner and in every channel."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8, y * 12, 255 - x * 4], -1).astype(np.uint8)


def test_ordinary_pictures_are_read_as_the_pipelines_do(tmp_path):
    for name in ('x.jpg', 'x.png', 'x.bmp', 'x.tif', 'x.webp'):
        Image.fromarray(gradient()).save(tmp_path / name)
        picture = read_picture(tmp_path / name)
        assert picture.scale == 1
        assert np.array_equal(picture.pixels, mmcv.imread(tmp_path / name))


def test_exif_rotation(tmp_path):
    upright = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    upright.rotate(90, expand=True).save(
        tmp_path / 'x.jpg', exif=exif, quality=100, subsampling=0)
    pixels = read_picture(tmp_path / 'x.jpg').pixels[..., ::-1].astype(int)
    assert pixels.shape == (20, 30, 3)
    # What JPEG loses at its best quality is a few grey values.
    assert abs(pixels - gradient()).max() <= 4


def test_transparent_pixels_are_white(tmp_path):
    alpha = np.zeros((20, 30), np.uint8)
    alpha[5:15] = 255
    rgba = np.dstack([gradient(), alpha])
    Image.fromarray(rgba).save(tmp_path / 'x.png')
    expected = np.where(alpha[..., None] > 0, gradient(), 255)
    pixels = read_picture(tmp_path / 'x.png').pixels[..., ::-1]
    assert np.array_equal(pixels, expected)


def test_grey_and_16_bits_become_three_equal_channels(tmp_path):
    grey = gradient()[..., 0]
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    deep = grey.astype(np.uint16) * 256 + 77
    Image.fromarray(deep).save(tmp_path / 'deep.tiff')
    Image.fromarray(deep).save(tmp_path / 'deep.png')
    for name in ('grey.png', 'deep.tiff', 'deep.png'):
        pixels = read_picture(tmp_path / name).pixels
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, np.stack([grey] * 3, -1)), name


def test_large_pictures_are_shrunk(tmp_path):
    Image.fromarray(gradient(20, 30)).save(tmp_path / 'x.png')
    picture = read_picture(tmp_path / 'x.png', max_side=15)
    assert picture.pixels.shape == (10, 15, 3) and picture.scale == 0.5


def test_a_picture_of_which_nothing_would_be_left(tmp_path):
    Image.new('L', (9000, 1)).save(tmp_path / 'x.png')
    with pytest.raises(ValueError, match='9000 x 1 pixels nothing'):
        read_picture(tmp_path / 'x.png')


def test_other_colour_modes(tmp_path):
    """Palette, CMYK and one bit show what PIL shows as RGB."""
    rgb = Image.fromarray(gradient())
    palette = rgb.quantize(16)
    palette.save(tmp_path / 'palette.png')
    palette.save(tmp_path / 'transparent.png', transparency=3)
    rgb.convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=100)
    rgb.convert('1').save(tmp_path / 'bit.png')
    for name in ('palette.png', 'cmyk.jpg', 'bit.png'):
        with Image.open(tmp_path / name) as image:
            expected = np.asarray(image.convert('RGB')).astype(int)
        pixels = read_picture(tmp_path / name).pixels[..., ::-1]
        # Two decoders of JPEG and two formulas for CMYK differ by roundings.
        tolerance = 4 if name == 'cmyk.jpg' else 0
        assert abs(pixels - expected).max() <= tolerance, name
    clear = np.asarray(palette) == 3
    shown = np.asarray(palette.convert('RGB'))
    pixels = read_picture(tmp_path / 'transparent.png').pixels[..., ::-1]
    assert clear.any() and np.array_equal(
        pixels, np.where(clear[..., None], 255, shown))


@pytest.mark.parametrize('content', [b'', b'\xff\xd8\xff\xe0junk', b'text'])
def test_damaged_pictures_are_refused(content, tmp_path):
    (tmp_path / 'x.jpg').write_bytes(content)
    with pytest.raises(ValueError, match='x.jpg is damaged or no picture'):
        read_picture(tmp_path / 'x.jpg')


def test_samples_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / 'x.tif')
    with pytest.raises(ValueError, match='32 bits.*8 or 16'):
        read_picture(tmp_path / 'x.tif')


def test_pictures_are_found(tmp_path):
    for name in ('b.PNG', 'a.jpg', 'notes.txt', 'inner/c.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folder = str(tmp_path)
    assert [p.name for p in find_pictures([folder])] == ['a.jpg', 'b.PNG']
    named = find_pictures([f'{folder}/b.PNG', folder])
    assert [p.name for p in named] == ['b.PNG', 'a.jpg']
    with pytest.raises(FileNotFoundError, match='no picture at nothing.jpg'):
        find_pictures([folder, 'nothing.jpg'])
    assert [p.name for p in find_others([folder])] == ['notes.txt']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='no pictures in .*empty'):
        find_pictures([str(tmp_path / 'empty')])


def test_names_of_drawings_are_unique():
    used = set()
    stems = ['a', 'a', 'a_labels', 'a_2', 'b']
    names = [unused_name(stem, used) for stem in stems]
    written = names + [f'{name}_labels' for name in names]
    assert len(set(written)) == len(written)
    assert names[0] == 'a' and names[-1] == 'b'


# Predicting


@pytest.fixture(scope='module')
def digits(copy_digits, tmp_path_factory) -> Path:
    """A folder with data/digits in it."""
    return copy_digits(tmp_path_factory.mktemp('digits'))


def checkpoint(name: str, path: Path):
    """The config and model of a checkpoint with random weights."""
    cfg = load(name)
    if cfg.default_scope == 'mmdet':  # so that something is found
        cfg.model.test_cfg.rcnn.score_thr = 0.
        cfg.model.test_cfg.rcnn.max_per_img = 5
    model = build_model(cfg)
    torch.save(dict(state_dict=model.state_dict()), path)
    return cfg, model


def tensors_of(sample, field: str) -> list:
    found = sample.get(field)
    if field == 'pred_instances':
        return [found.labels, found.scores, found.bboxes, found.masks]
    return [found if torch.is_tensor(found) else found.data]


@pytest.mark.parametrize('name', TASKS)
def test_a_prediction_is_that_of_the_test_run(name, digits, tmp_path,
                                              monkeypatch):
    monkeypatch.chdir(digits)
    pattern, field, _ = TASKS[name]
    cfg, model = checkpoint(name, tmp_path / 'x.pth')
    init_default_scope(cfg.default_scope)
    data = DATASETS.build(cfg.test_dataloader.dataset)
    wanted = sorted(Path('data/digits').glob(pattern))[0].resolve()
    index = next(i for i in range(len(data)) if Path(
        data.get_data_info(i)['img_path']).resolve() == wanted)
    expected, = model.test_step(pseudo_collate([data[index]]))
    predictor = Predictor(cfg, model, 'cpu')
    found = predictor.predict(read_picture(wanted).pixels)
    expected, found = tensors_of(expected, field), tensors_of(found, field)
    assert all(torch.equal(a, b) for a, b in zip(expected, found))
    assert all(len(each) for each in found)


def predict_py(monkeypatch, folder: Path, *args) -> int:
    try:
        run_tool(monkeypatch, folder, 'predict.py', *args)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.parametrize('name', TASKS)
def test_the_tool_draws_and_describes(name, tmp_path, monkeypatch, capsys):
    _, _, form = TASKS[name]
    checkpoint(name, tmp_path / 'x.pth')
    photographs = tmp_path / 'photographs'
    photographs.mkdir()
    Image.fromarray(gradient(60, 90)).save(photographs / 'a.png')
    Image.fromarray(gradient(60, 90)[..., 0]).save(photographs / 'a.tif')
    (photographs / 'damaged.jpg').write_bytes(b'\xff\xd8\xff')
    (photographs / 'phone.heic').touch()
    code = predict_py(monkeypatch, tmp_path, name, 'x.pth', photographs,
                    '--out', 'out', '--inference', form, '--device', 'cpu')
    assert code == 1  # one was not read; the others are there
    said = capsys.readouterr().out
    assert 'left out, not of a known kind: ' in said
    assert 'phone.heic' in said and 'damaged.jpg: NO RESULT' in said
    results = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert [Path(r['file']).name for r in results] == ['a.png', 'a.tif',
                                                       'damaged.jpg']
    assert 'damaged' in results.pop()['error']
    for result in results:
        assert (result['width'], result['height']) == (90, 60)
        drawn = Image.open(tmp_path / 'out' / result['drawing'])
        assert drawn.size == (720, 480)
        if name.startswith('cls'):
            scores = [each['score'] for each in result['classes']]
            assert len(scores) == 5 and scores == sorted(scores)[::-1]
            assert result['classes'][0]['name'] in '0123456789'
        elif name.startswith('seg'):
            shares = [each['share'] for each in result['classes']]
            assert sum(shares) == pytest.approx(1)  # rounding of decimals
            labels = Image.open(tmp_path / 'out' / result['labels'])
            assert labels.size == (90, 60)
            assert {each['label'] for each in result['classes']} == set(
                np.unique(np.asarray(labels)).tolist())
        else:
            assert all(set(each) == {'label', 'name', 'score', 'box', 'mask'}
                       for each in result['instances'])


def test_work_is_kept_when_a_later_picture_fails(tmp_path, monkeypatch):
    name = 'cls/qsdt_digits.py'
    cfg, model = checkpoint(name, tmp_path / 'x.pth')
    Image.fromarray(gradient()).save(tmp_path / 'a.png')
    predictor = Predictor(cfg, model, 'cpu')
    results = predict_pictures(
        predictor, [tmp_path / 'a.png', tmp_path / 'gone.png'], tmp_path)
    assert 'error' not in next(results)
    assert 'gone.png' in next(results)['error']


def test_a_long_thin_picture_does_not_stop_the_others(tmp_path):
    """A side of it vanishes in the model's pipeline."""
    name = 'det/qsdt_maskrcnn-stock-heads_digits.py'
    cfg, model = checkpoint(name, tmp_path / 'x.pth')
    Image.new('L', (1000, 2)).save(tmp_path / 'long.png')
    Image.fromarray(gradient()).save(tmp_path / 'a.png')
    long, other = predict_pictures(
        Predictor(cfg, model, 'cpu'),
        [tmp_path / 'long.png', tmp_path / 'a.png'], tmp_path)
    assert '1000 x 2 pixels cannot be resized' in long['error']
    assert 'error' not in other


def test_drawings_do_not_replace_pictures(tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    Image.fromarray(gradient()).save(tmp_path / 'a.png')
    before = (tmp_path / 'a.png').read_bytes()
    said = predict_py(monkeypatch, tmp_path, 'qsdt_digits', 'x.pth', 'a.png',
                    '--out', '.')
    assert 'is a folder of the pictures' in said
    assert (tmp_path / 'a.png').read_bytes() == before


class Harmful:
    """Leaves a file where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ('harm', )


@pytest.mark.parametrize('name', TASKS)
def test_a_checkpoint_that_executes_code_is_refused(name, tmp_path,
                                                    monkeypatch):
    cfg, model = checkpoint(name, tmp_path / 'x.pth')
    torch.save(dict(state_dict=model.state_dict(), meta=Harmful()),
               tmp_path / 'x.pth')
    Image.fromarray(gradient()).save(tmp_path / 'a.png')
    said = predict_py(monkeypatch, tmp_path, name, 'x.pth', 'a.png', '--out',
                    'out')
    assert 'cannot be loaded safely' in said or 'can be loaded safely' in said
    assert not (tmp_path / 'harm').exists()


@pytest.mark.parametrize('args, words', [
    (['none.pth', '.'], 'no checkpoint at none.pth'),
    (['x.pth', 'none.jpg'], 'no picture at none.jpg'),
    (['x.pth', '.', '--max-side', '0'], '--max-side must be positive'),
])
def test_bad_arguments(args, words, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    Image.fromarray(gradient()).save(tmp_path / 'a.png')
    said = predict_py(monkeypatch, tmp_path, 'qsdt_digits', *args, '--out',
                    'out')
    assert words in said


def test_events_are_no_pictures():
    cfg = load('cls/qsdt_cifar10dvs.py')
    with pytest.raises(ValueError, match='reads 2 channels'):
        Predictor(cfg, build_model(cfg), 'cpu')
