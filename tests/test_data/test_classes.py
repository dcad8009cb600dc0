"""Classes as the built data sets have them: walked, drawn and named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmqsdt.data.classes import class_counts, dataset_meta, drawn_meta
from mmqsdt.utils.build import build_model

PICTURES = dict(folder='folder/val/cat/0.jpg', coco='coco/val/0.jpg',
                pairs='pairs/images/val/0.jpg', voc='voc/JPEGImages/004.jpg')
WRAPPERS = {
    'bare': lambda inner: inner,
    'repeated': lambda inner: dict(
        type='RepeatDataset', times=2, dataset=inner),
    'joined': lambda inner: dict(type='ConcatDataset', datasets=[inner]),
}


def many_classes(cfg: Config, number: int) -> None:
    """More than any palette that ships has colors."""
    names = [f'class {i}' for i in range(number)]
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.metainfo = dict(classes=names)
    for count in list(class_counts(cfg.model)):
        count.part.num_classes = number


@pytest.mark.parametrize('wrap', WRAPPERS)
@pytest.mark.parametrize('kind', PICTURES)
def test_a_wrapped_test_set_is_predicted_tested_and_drawn(
        kind, wrap, configure, run_tool, tmp_path):
    cfg = configure(kind)
    test = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = WRAPPERS[wrap](test)
    torch.save(dict(state_dict=build_model(cfg).state_dict()), 'x.pth')
    cfg.dump('my.py')
    options = ['--cfg-options', 'test_dataloader.num_workers=0']
    if kind != 'voc':  # whose metric knows one data set only
        run_tool('test.py', 'my.py', 'x.pth', '--work-dir', 'work',
                 '--show-dir', 'shown', *options)
        assert len(list((tmp_path / 'work').rglob('*.png'))) or list(
            (tmp_path / 'shown').glob('*.png'))
    run_tool('predict.py', 'my.py', 'x.pth', PICTURES[kind], '--out', 'out')
    found, = json.loads((tmp_path / 'out/predictions.json').read_text())
    for each in found.get('classes', []) + found.get('instances', []):
        assert each['name'] == cfg.metainfo.classes[each['label']]


@pytest.mark.parametrize('number', [1, 81, 150])
@pytest.mark.parametrize('kind', PICTURES)
def test_any_number_of_classes_has_a_color_each(kind, number, configure):
    cfg = configure(kind)
    many_classes(cfg, number)
    palette = dataset_meta(cfg)['palette']
    assert len(palette) == number
    assert all(isinstance(color, tuple) and len(color) == 3
               for color in palette)


@pytest.mark.parametrize('kind', ['coco', 'pairs'])
def test_more_classes_than_colors_are_drawn(kind, configure, run_tool,
                                            tmp_path):
    cfg = configure(kind)
    many_classes(cfg, 81)
    if kind == 'coco':
        cfg.model.test_cfg.rcnn.score_thr = 0.
    torch.save(dict(state_dict=build_model(cfg).state_dict()), 'x.pth')
    cfg.dump('my.py')
    run_tool('predict.py', 'my.py', 'x.pth', PICTURES[kind], '--out', 'out',
             '--score-thr', '0')
    assert (tmp_path / 'out/0.png').is_file()


@pytest.mark.parametrize('meta, palette', [
    (dict(classes=('a', 'b')), None),
    (dict(classes=('a', 'b'), palette='random'), None),
    (dict(classes=('a', 'b'), palette=[[1, 2, 3]]), None),
    (dict(classes=('a', ), palette=[[1, 2, 3], [4, 5, 6]]), [(1, 2, 3)]),
    ([dict(classes=('a', ), palette=[(1, 2, 3)]), dict()], [(1, 2, 3)]),
    (dict(), []),
])
def test_palettes(meta, palette):
    drawn = drawn_meta(meta)
    if palette is None:
        assert len(drawn['palette']) == 2
        assert drawn == drawn_meta(meta)  # the same in every run
    else:
        assert drawn['palette'] == palette


def test_names_of_a_checkpoint_where_the_config_has_none(configure, run_tool,
                                                         tmp_path):
    cfg = configure('folder')
    for part in ('train', 'val', 'test'):
        dataset = cfg[f'{part}_dataloader'].dataset
        dataset.type = 'CustomDataset'
        dataset.pop('metainfo', None)
    torch.save(dict(state_dict=build_model(cfg).state_dict(), meta=dict(
        dataset_meta=dict(classes=('cat', 'dog')))), 'x.pth')
    cfg.dump('my.py')
    (tmp_path / 'folder').rename(tmp_path / 'elsewhere')
    run_tool('predict.py', 'my.py', 'x.pth', 'elsewhere/val/cat/0.jpg',
             '--out', 'out')
    found, = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert {each['name'] for each in found['classes']} == {'cat', 'dog'}


# Gray images, and segmenters of one channel


def gray(cfg: Config) -> None:
    for part in ('train', 'val', 'test'):
        for step in cfg[f'{part}_dataloader'].dataset.pipeline:
            if step.type == 'LoadImageFromFile':
                step.color_type = 'grayscale'
    cfg.model.backbone.in_channels = 1
    cfg.model.data_preprocessor.update(
        {key: False for key in ('bgr_to_rgb', 'to_rgb')
         if key in cfg.model.data_preprocessor}, mean=[120.], std=[60.])


@pytest.mark.parametrize('kind', PICTURES)
def test_a_model_of_gray_images_predicts_as_it_tests(kind, configure,
                                                     tmp_path):
    from mmengine.registry import DATASETS

    from mmqsdt.engine.predict import Predictor, read_picture
    cfg = configure(kind)
    gray(cfg)
    model = build_model(cfg)
    path = tmp_path / PICTURES[kind]
    # Of what has no color both ways of reading are the same.
    Image.fromarray(np.random.default_rng(0).integers(
        0, 256, (48, 64), np.uint8)).save(path.with_suffix('.png'))
    path.with_suffix('.png').replace(path)
    sample = DATASETS.build(cfg.test_dataloader.dataset)[0]
    batch = {key: [value] for key, value in sample.items()}
    expected, = model.test_step(batch if kind != 'folder' else dict(
        inputs=sample['inputs'][None], data_samples=[sample['data_samples']]))
    found = Predictor(cfg, model, 'cpu').predict(read_picture(path).pixels)
    for field in ('pred_score', 'pred_sem_seg'):
        if field in found:
            a, b = expected.get(field), found.get(field)
            assert torch.equal(getattr(a, 'data', a), getattr(b, 'data', b))


def one_channel(cfg: Config) -> None:
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.update(out_channels=1, threshold=0.4)
        head.loss_decode.use_sigmoid = True


def test_a_segmenter_of_one_channel_is_predicted_with(configure, run_tool,
                                                      tmp_path):
    cfg = configure('pairs')
    one_channel(cfg)
    torch.save(dict(state_dict=build_model(cfg).state_dict()), 'x.pth')
    cfg.dump('my.py')
    run_tool('predict.py', 'my.py', 'x.pth', PICTURES['pairs'], '--out',
             'out')
    found, = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert sum(each['share'] for each in found['classes']) == 1
    with Image.open(tmp_path / 'out' / found['labels']) as labels:
        assert set(np.unique(labels)) <= {0, 1}


@pytest.mark.parametrize('kind, change, words', [
    ('pairs', lambda cfg: None, 'argmax over the channels'),
    ('pairs', one_channel, 'sigmoid, class 1 where above 0.4'),
    ('folder', lambda cfg: None, 'softmax or argmax'),
    ('voc', lambda cfg: None, 'sigmoid of the scores, decode on anchors'),
    ('coco', lambda cfg: None, 'sigmoid of the scores, proposals'),
])
@pytest.mark.parametrize('channels', [1, 3])
def test_what_remains_to_be_done_is_in_the_onnx_file(
        channels, kind, change, words, configure, tmp_path):
    pytest.importorskip('onnxruntime')
    from mmqsdt.deploy.onnx_graph import Options, export_onnx, open_session
    cfg = configure(kind)
    change(cfg)
    if channels == 1:
        gray(cfg)
    path: Path = tmp_path / 'x.onnx'
    export_onnx(build_model(cfg), path, Options(size=(48, 64)))
    facts = open_session(path).get_modelmeta().custom_metadata_map
    assert words in facts['output']
    assert facts['input'].startswith(f'(B, {channels}, H, W), '
                                     + ('gray' if channels == 1 else
                                        'channels in the order RGB'))
