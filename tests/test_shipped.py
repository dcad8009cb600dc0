"""The weights that ship: whole, as good as they were, found by name."""

import hashlib
import runpy
import shutil
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import setuptools
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from PIL import Image

import mmqsdt
from experiments.zoo import MODELS, SCENES, entry, measure
from mmqsdt.checkpoints import find_checkpoint, load_for_test, unpacked
from mmqsdt.cli import predict
from mmqsdt.utils import build_model, check_framework, get_config_path
from mmqsdt.utils.shipped import (
    SCHEME,
    ShippedWeights,
    resolve_weights,
    shipped_names,
    shipped_weights,
)

HOME = Path(__file__).parents[1]
NAMES = sorted(shipped_names())
PICTURES = dict(cls='cls/val/3/*.png', det='det/val/*.jpg',
                seg='seg/images/validation/*.jpg')


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """With the held-out part of the digits that the metafiles speak of."""
    pytest.importorskip('sklearn')
    for framework in ('mmpretrain', 'mmdet', 'mmseg'):
        pytest.importorskip(framework)
    from mmqsdt.data import prepare_digits
    folder = tmp_path_factory.mktemp('shipped')
    prepare_digits(folder / 'data/digits', num_train=1, num_val=SCENES,
                   progress=False)
    return folder


def pictures(folder: Path, name: str) -> list[Path]:
    return sorted((folder / 'data/digits').glob(PICTURES[name[:3]]))


def test_what_the_metafiles_name_is_there():
    assert set(NAMES) <= set(MODELS) and NAMES
    for name, weights in shipped_names().items():
        content = weights.path.read_bytes()
        assert len(content) == weights.size < 2**21
        assert hashlib.sha256(content).hexdigest() == weights.sha256
        assert weights.scores and shipped_weights(name) == weights


def test_the_wheel_and_the_source_archive_have_them(monkeypatch):
    seen = {}
    monkeypatch.setattr(setuptools, 'setup', seen.update)
    runpy.run_path(str(HOME / 'setup.py'))
    packed = {path for pattern in seen['package_data']['mmqsdt']
              for path in (HOME / 'mmqsdt').glob(pattern)}
    assert packed == {w.path for w in shipped_names().values()}
    assert 'recursive-include mmqsdt/weights *.safetensors' in \
        (HOME / 'MANIFEST.in').read_text().splitlines()


@pytest.mark.parametrize('name', NAMES)
def test_scores_are_those_that_were_measured(name, folder):
    import yaml
    metafile = HOME / f'configs/{name[:3]}/metafile.yml'
    said = next(m for m in yaml.safe_load(metafile.read_text())['Models']
                if m.get('Weights') == SCHEME + name)
    with chdir(folder):
        found = measure(name, SCHEME + name, work_dir='work_dir')
    # Kernels of another CPU add in another order: a count may flip.
    assert found == pytest.approx(said['Metadata']['Held Out Part'], abs=0.004)


@pytest.mark.parametrize('name', NAMES)
def test_one_line_predicts_on_paths_arrays_and_images(name, folder, tmp_path):
    model = mmqsdt.load(name, form='float')
    picture = tmp_path / 'x.png'
    Image.open(pictures(folder, name)[0]).convert('RGB').save(picture)
    image = Image.open(picture)
    results = model([str(picture), picture, image, np.asarray(image)])
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        for key, value in other.items():
            assert np.array_equal(value, results[0][key]), key
    check_result(results[0], name, image)
    model.draw(image, tmp_path / 'drawn.png')
    assert Image.open(tmp_path / 'drawn.png').size[0] >= image.size[0]


def check_result(result: dict, name: str, image: Image.Image) -> None:
    shape = image.size[::-1]
    if name.startswith('cls'):
        assert result['name'] == '3' == str(result['label'])
        assert result['scores'].shape == (10, )
        assert result['score'] == result['scores'].max() > .5
    elif name.startswith('det'):
        number = len(result['scores'])
        assert number > 0 and list(result['scores']) == sorted(
            result['scores'], reverse=True)
        assert result['boxes'].shape == (number, 4)
        assert result['masks'].shape == (number, *shape)
        assert result['names'] == [str(i) for i in result['labels']]
    else:
        assert result['labels'].shape == shape
        assert set(result['names']) == set(np.unique(result['labels']))


def test_the_default_form_says_the_same(folder):
    name = 'cls/qsdt_digits'
    fast, trained = mmqsdt.load(name), mmqsdt.load(name, form='float')
    for path in pictures(folder, name)[:5]:
        a, b = fast(path), trained(path)
        assert a['label'] == b['label']
        assert a['scores'] == pytest.approx(b['scores'], abs=1e-4)


@pytest.mark.parametrize('picture, words', [
    ('none.png', 'no picture at none.png'),
    (np.zeros((4, 4, 3)), r'expected an array .*got shape \(4, 4, 3\), float'),
    (np.zeros((3, 4, 4), np.uint8), r'got shape \(3, 4, 4\)'),
    (torch.zeros(3, 4, 4), r'a tensor; picture.permute\(1, 2, 0\)'),
    (Image.new('F', (4, 4)), '32 bits'),
])
def test_what_is_no_picture(picture, words, folder):
    model = mmqsdt.load('cls/qsdt_digits', form='float')
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        model(picture)


def test_configs_without_weights_say_which_have_some():
    with pytest.raises(FileNotFoundError, match='no weights ship for cls/qsdt_'
                       'imagenet; name a checkpoint.*cls/qsdt_digits'):
        mmqsdt.load('cls/qsdt_imagenet')


@pytest.mark.parametrize('name', NAMES)
def test_the_scheme_loads_them_wherever_a_checkpoint_is_named(name):
    cfg = Config.fromfile(get_config_path(f'{name}.py'))
    check_framework(cfg)
    tested, started = build_model(cfg), build_model(cfg)
    load_for_test(tested, SCHEME + name)
    content = CheckpointLoader.load_checkpoint(SCHEME + name, 'cpu')
    started.load_state_dict(content['state_dict'])
    expected = tested.state_dict()
    for key, value in started.state_dict().items():
        assert torch.equal(value, expected[key]), key
    backbone = mmqsdt.QSDTransformer(**dict(
        {k: v for k, v in cfg.model.backbone.items() if k != 'type'},
        init_cfg=dict(type='Pretrained', checkpoint=SCHEME + name)))
    backbone.init_weights()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, expected[f'backbone.{key}']), key
    assert find_checkpoint(SCHEME + name) == resolve_weights(SCHEME + name)
    assert unpacked(resolve_weights(SCHEME + name)).keys() == {'state_dict'}


def test_a_file_that_was_changed_is_refused(tmp_path, monkeypatch):
    known = shipped_names()['cls/qsdt_digits']
    changed = tmp_path / 'x.safetensors'
    changed.write_bytes(known.path.read_bytes() + b' ')
    monkeypatch.setitem(
        shipped_names(), 'cls/qsdt_digits', ShippedWeights(
            known.name, changed, known.size, known.sha256, known.scores))
    with pytest.raises(ValueError, match='not the file that cls/qsdt_digits'):
        shipped_weights('qsdt_digits')
    changed.unlink()
    with pytest.raises(FileNotFoundError, match='installation is not whole'):
        shipped_weights('qsdt_digits')


def test_the_command_needs_no_checkpoint(folder, tmp_path, monkeypatch,
                                         capsys):
    shutil.copy(pictures(folder, 'cls/qsdt_digits')[0], tmp_path / '3.png')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['predict', 'cls/qsdt_digits', '3.png'])
    predict.main()
    assert '3.png: 3 ' in capsys.readouterr().out
    assert (tmp_path / 'predictions/3.png').is_file()


@pytest.mark.parametrize('paths, words', [
    (['x.pth'], 'x.pth is a checkpoint; name pictures'),
    (['x.pth', '3.png'], 'no checkpoint at x.pth'),
    (['mmqsdt://cls/none', '3.png'], 'no weights ship for mmqsdt://cls/none'),
    (['empty', '3.png'], 'no checkpoint in empty: nothing was trained'),
    (['empty'], 'no pictures in empty'),
])
def test_checkpoints_among_the_paths(paths, words, tmp_path, monkeypatch):
    (tmp_path / 'empty').mkdir()
    Image.new('L', (8, 8)).save(tmp_path / '3.png')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['predict', 'cls/qsdt_digits', *paths])
    with pytest.raises(SystemExit, match=words):
        predict.main()
    assert not (tmp_path / 'predictions').exists()


def test_the_metafile_is_written_in_place():
    text = (HOME / 'configs/cls/metafile.yml').read_text()
    name = 'cls/qsdt_digits'
    known, found = shipped_names()[name], {'Top 1 Accuracy': 12.3456}
    once = entry(text, name, known.size, known.sha256, found, found)
    assert 'Top 1 Accuracy: 12.3\n' in once and '{Top 1 Accuracy: 12.3456}' \
        in once
    assert entry(once, name, known.size, known.sha256, found, found) == once
    assert len(once.splitlines()) == len(text.splitlines())
