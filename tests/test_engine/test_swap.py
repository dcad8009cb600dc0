"""Stock configs with the backbone put in by the tool: they fit, and train."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from shared import run_tool
from test_configs import CONFIGS, load

from mmqsdt.cli.smoke import set_classes
from mmqsdt.engine.swap import choose_backbone, swap_config
from mmqsdt.models import QSDTransformer
from mmqsdt.models.channels import Maps, check_channels, maps_of
from mmqsdt.utils.frameworks import know_forks

HOME = Path(__file__).parents[2]
DETR = ['model.encoder.num_layers=1', 'model.decoder.num_layers=1']
# Stock config -> what makes it small, and fields that must have changed.
TRAINED = {
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py':
    (DETR, dict(neck=dict(in_channels=[48, 96, 128]))),
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py':
    (DETR, dict(neck=dict(in_channels=[48, 96, 128]))),
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py':
    (['model.panoptic_head.pixel_decoder.encoder.num_layers=1',
      'model.panoptic_head.transformer_decoder.num_layers=1',
      'model.train_cfg.num_points=64'],
     dict(panoptic_head=dict(in_channels=[16, 48, 96, 128],
                             strides=[4, 8, 16, 32]))),
}
FITTED = {
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py':
    dict(neck=dict(in_channels=[16, 48, 96, 128])),
    'mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py':
    dict(neck=[dict(in_channels=[16, 48, 96, 128])]),
    'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py':
    dict(decode_head=dict(in_channels=[16, 48, 96, 128]),
         auxiliary_head=dict(in_channels=96)),
    'mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py':
    dict(decode_head=dict(in_channels=128),
         auxiliary_head=dict(in_channels=96)),
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py':
    dict(decode_head=dict(in_channels=128, c1_in_channels=16)),
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py':
    dict(decode_head=dict(in_channels=[16, 48, 96, 128],
                          strides=[4, 8, 16, 32])),
    'mmpretrain::resnet/resnet50_8xb32_in1k.py':
    dict(head=dict(in_channels=128)),
}


@pytest.fixture(scope='module')
def workplace(tmp_path_factory) -> Path:
    pytest.importorskip('sklearn')
    from mmqsdt.data import prepare_digits
    folder = tmp_path_factory.mktemp('workplace')
    prepare_digits(folder / 'data/digits', num_train=8, num_val=2,
                   progress=False)
    return folder


def contains(found: object, wanted: object) -> bool:
    if isinstance(wanted, dict):
        return all(contains(found[k], v) for k, v in wanted.items())
    if wanted and isinstance(wanted, list) and isinstance(wanted[0], dict):
        return contains(found[0], wanted[0])
    return found == wanted


@pytest.mark.parametrize('stock', FITTED)
def test_what_reads_the_backbone_fits(stock, tmp_path):
    pytest.importorskip(stock.partition('::')[0])
    cfg = swap_config(stock, tmp_path / 'my.py', 'tiny')
    assert contains(cfg.model, FITTED[stock])
    check_channels(cfg.model)
    text = (tmp_path / 'my.py').read_text()
    assert f'_base_ = {stock!r}' in text.replace('\n', '')
    assert 'mmqsdt' in cfg.custom_imports.imports
    assert cfg.model.get('pretrained') is None
    if 'libra' in stock:  # the second neck is what it was
        assert cfg.model.neck[1].type == 'BFP'


@pytest.mark.parametrize('stock', TRAINED)
def test_a_swapped_detector_trains(stock, workplace, monkeypatch, capsys):
    pytest.importorskip('mmdet.models')
    options, expected = TRAINED[stock]
    name = Path(stock).stem
    run_tool(monkeypatch, workplace, 'swap.py', stock, '--arch', 'tiny',
             '--out', f'{name}.py')
    assert '--smoke' in capsys.readouterr().out
    assert contains(Config.fromfile(f'{name}.py').model, expected)
    run_tool(monkeypatch, workplace, 'train.py', f'{name}.py', '--smoke',
             '--cfg-options', *options)
    assert '8 digits images in place of CocoDataset' in \
        capsys.readouterr().out
    log = next(Path(f'work_dirs/{name}_smoke').glob('*/*.log')).read_text()
    assert '(val) [' in log and 'loss: nan' not in log and 'loss: ' in log
    assert list(Path(f'work_dirs/{name}_smoke').glob('*.pth'))


def test_what_the_page_swaps_is_trained():
    page = (HOME / 'docs/swap.md').read_text()
    assert set(re.findall(r'mmqsdt swap (\S+)', page)) == set(TRAINED)


def test_bases_of_a_fork_are_found(tmp_path, monkeypatch):
    """Of mmseg, whose package has another name than MMEngine knows."""
    pytest.importorskip('mmseg')
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    name = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
    (tmp_path / 'my.py').write_text(f'_base_ = {name!r}')
    know_forks()
    assert Config.fromfile(tmp_path / 'my.py').model.neck.type == 'FPN'


@pytest.mark.parametrize('strides, taps, last', [
    ((4, 8, 16, 32), (1, 2, 3, 4), 2), ((8, 16, 32), (2, 3, 4), 2),
    ((4, 8, 8, 8), (1, 2, 3, 4), None), ((4, 8, 16, 16), (1, 2, 3, 4), None),
    ((16, ), (3, ), None), ((32, ), (4, ), 2), ((8, 16), (2, 3), None)])
def test_taps_have_the_strides_that_were_there(strides, taps, last):
    ours = choose_backbone(Maps((1, ) * len(strides), strides), 'mmdet',
                           'tiny', 4)
    assert ours['out_indices'] == taps
    assert ours.get('stage4_stride') == last


def test_maps_that_no_tap_has():
    with pytest.raises(ValueError, match=r'strides \[16, 32, 64\]; those of a'
                       r' QSDTransformer have \[2, 4, 8, 16, 32\]'):
        choose_backbone(Maps((1, ) * 3, (16, 32, 64)), 'mmdet', 'tiny', 4)


@pytest.mark.parametrize('settings', [
    dict(arch='15m', out_indices=(1, 2, 3, 4), stage4_stride=2),
    dict(arch='tiny', out_indices=2), dict(arch='8m')])
def test_maps_are_known_without_building(settings):
    backbone = QSDTransformer(**settings)
    found = maps_of(dict(settings, type='mmqsdt.QSDTransformer'))
    assert found == (backbone.out_channels, backbone.out_strides)


@pytest.mark.parametrize('name', CONFIGS)
def test_the_shipped_configs_fit(name):
    check_channels(load(name).model)


@pytest.mark.parametrize('name, key, value, words', [
    ('det/qsdt_maskrcnn_coco.py', 'neck.in_channels', [256, 512, 1024, 2048],
     r'model.neck.in_channels = \[256, 512, 1024, 2048\], expected '
     r'\[64, 128, 256, 360\]'),
    ('cls/qsdt_imagenet.py', 'head.in_channels', 2048,
     'model.head.in_channels = 2048, expected 360'),
    ('seg/qsdt_upernet_ade20k.py', 'decode_head.in_index', [0, 1, 2, 4],
     'model.decode_head reads map 4, the backbone has 4'),
])
def test_wrong_channels_are_named_with_the_right_ones(name, key, value,
                                                      words):
    cfg = load(name)
    cfg.merge_from_dict({f'model.{key}': value})
    with pytest.raises(ValueError, match=words):
        check_channels(cfg.model)


@pytest.mark.parametrize('stock, out, words', [
    ('det/qsdt_maskrcnn_digits', 'my.py', 'has a QSDTransformer already'),
    ('mmdet::dino/dino-5scale.py', 'my.py', 'did you mean mmdet::dino/dino-5'),
    ('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', 'my.txt',
     'must end in .py'),
    ('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', 'there.py',
     'exists; name another, or --force'),
])
def test_refusals(stock, out, words, tmp_path):
    pytest.importorskip('mmdet')
    (tmp_path / 'there.py').touch()
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        swap_config(stock, tmp_path / out, 'tiny')
    assert [p.name for p in tmp_path.iterdir()] == ['there.py']


def test_class_weights_follow_the_classes():
    model = ConfigDict(
        panoptic_head=dict(num_things_classes=80, num_stuff_classes=53,
                           loss_cls=dict(class_weight=[1.] * 133 + [.1])),
        decode_head=dict(num_classes=3, loss=dict(class_weight=[1., 2., 3.])),
        test_cfg=dict(panoptic_on=True, instance_on=False))
    assert set_classes(model, 2) == {3, 133}
    assert model.panoptic_head.loss_cls.class_weight == [1., 1., .1]
    assert model.panoptic_head.num_things_classes == 2
    assert model.decode_head.loss.class_weight == [1., 1.]
    assert model.test_cfg == dict(panoptic_on=False, instance_on=True)
