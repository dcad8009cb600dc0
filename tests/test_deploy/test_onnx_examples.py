"""The scripts of the ONNX page, in a process that cannot import PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from networks import as_if_trained
from torch.nn import functional as F

from mmqsdt.utils.build import build_model

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from mmqsdt.cli.export_onnx import picture_facts  # noqa: E402
from mmqsdt.deploy.onnx_graph import (  # noqa: E402
    Options,
    export_onnx,
    open_session,
    run_onnx,
)

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / 'docs/examples'
ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(1, 1), num_heads=2)
COLORS = dict(mean=[120., 110., 100.], std=[60., 50., 40.])
# None makes their import fail, whatever is installed.
WITHOUT = """
import runpy, sys
for name in ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg',
             'mmpretrain', 'mmqsdt', 'onnx', 'cv2'):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def run_example(name: str, *args: object) -> list[dict]:
    """What a script prints, or its complaint."""
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT, str(EXAMPLES / f'onnx_{name}.py'),
         *map(str, args)], capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def picture(tmp_path) -> Path:
    """``picture(height, width)``: a file whose channels differ."""

    def write(height: int, width: int) -> Path:
        path = tmp_path / f'{height}x{width}.png'
        values = np.random.default_rng(0).integers(
            0, 256, (height, width, 3), np.uint8)
        mmcv.imwrite(values // np.array([1, 2, 3], np.uint8), str(path))
        return path

    return write


def as_read(path: Path) -> torch.Tensor:
    """As the pipelines read it: BGR, (3, H, W)."""
    return torch.from_numpy(mmcv.imread(str(path)).transpose(2, 0, 1).copy())


def outputs_of(file: Path, images: torch.Tensor) -> dict[str, torch.Tensor]:
    found = run_onnx(open_session(file), images)
    return {name: torch.from_numpy(value) for name, value in found.items()}


@pytest.mark.parametrize('inside', [False, True])
def test_classifier(inside, build, picture, tmp_path):
    model, path = build('cls'), picture(32, 32)
    model.data_preprocessor = MODELS.build(ConfigDict(
        type='mmpretrain.ClsDataPreprocessor', to_rgb=True, **COLORS))
    file, = export_onnx(
        model, tmp_path / 'x.onnx', Options(size=(32, 32), normalise=inside),
        dict(classes=json.dumps([f'class {i}' for i in range(10)])))
    images = as_read(path)[None]
    images = images.float() if inside else model.data_preprocessor(
        dict(inputs=images))['inputs']
    scores = outputs_of(file, images)['logits'][0].softmax(0)
    first, second = run_example('classify', file, path, path)
    assert first == second
    assert first['label'] == int(scores.argmax())
    assert first['name'] == f'class {first["label"]}'
    assert first['score'] == pytest.approx(float(scores.max()), abs=2e-6)


def test_classifier_resizes_and_crops(build, picture, tmp_path):
    model, path = build('cls'), picture(40, 90)
    steps = [dict(type='ResizeEdge', scale=32), dict(type='CenterCrop',
                                                     crop_size=32)]
    file, = export_onnx(model, tmp_path / 'x.onnx', Options(
        size=(32, 32), static=True), dict(steps=json.dumps(steps)))
    found, = run_example('classify', file, path)  # else the size is refused
    assert 0 <= found['label'] < 10


@pytest.mark.parametrize('channels', [3, 1])
def test_segmenter(channels, build, picture, tmp_path):
    model, path = build('seg'), picture(64, 96)
    head = model.decode_head
    if channels == 1:
        head.conv_seg = torch.nn.Conv2d(16, 1, 1)
        head.out_channels, head.threshold = 1, .4
    model.data_preprocessor = MODELS.build(ConfigDict(
        type='mmseg.SegDataPreProcessor', bgr_to_rgb=True, **COLORS))
    file, = export_onnx(model, tmp_path / 'x.onnx', Options(size=(64, 96)))
    images = model.data_preprocessor(
        dict(inputs=[as_read(path)]))['inputs']
    logits = F.interpolate(
        outputs_of(file, images)['logits'], size=(64, 96), mode='bilinear',
        align_corners=False)[0]
    expected = logits.argmax(0) if channels > 1 else \
        (logits[0].sigmoid() > .4).long()
    found, = run_example('segment', file, path)
    labels = mmcv.imread(f'{path}.labels.png', 'unchanged')
    # Where two classes are equal but for rounding.
    assert (labels == expected.numpy()).mean() > .999
    assert sum(found['pixels'].values()) == 64 * 96


@pytest.mark.parametrize('inside', [False, True])
def test_retinanet(inside, picture, tmp_path):
    pytest.importorskip('mmdet.models')
    from mmdet.structures import DetDataSample
    cfg = Config.fromfile(ROOT / 'configs/det/qsdt_retinanet_digits.py')
    cfg.model.backbone.arch = ARCH
    cfg.model.neck.in_channels = [8, 16, 16, 16]
    cfg.model.test_cfg.update(nms_pre=10_000, max_per_img=10_000)
    model, path = as_if_trained(build_model(cfg)), picture(50, 80)
    batch = model.data_preprocessor(dict(
        inputs=[as_read(path)], data_samples=[DetDataSample(metainfo=dict(
            img_shape=(50, 80), ori_shape=(50, 80),
            scale_factor=(1., 1.)))]))
    images, head = batch['inputs'], model.bbox_head
    with torch.no_grad():
        scores = torch.cat([x.flatten() for x in head(
            model.extract_feat(images))[0]]).sigmoid().unique()
    # Between two scores, so that rounding decides on none.
    head.test_cfg.score_thr = float(scores[-300:-298].mean())
    file, = export_onnx(model, tmp_path / 'x.onnx', Options(
        size=(64, 96), normalise=inside))
    if inside:  # what is 0 in the end is the mean before
        mean, std = (getattr(model.data_preprocessor, name).flip(0)
                     for name in ('mean', 'std'))
        images = images.flip(1) * std + mean
        images[..., :50, :80] = as_read(path)
    outputs = outputs_of(file, images)
    expected, = head.predict_by_feat(
        [outputs[f'cls{i}'] for i in range(5)],
        [outputs[f'bbox{i}'] for i in range(5)],
        batch_img_metas=[batch['data_samples'][0].metainfo], rescale=True)
    found = run_example('detect', file, path)
    assert len(found) == len(expected.scores) > 20
    # Two equal scores may stand in any order.
    rows = sorted([x['label'], round(x['score'], 4), *x['box']]
                  for x in found)
    others = sorted(
        [label, round(score, 4), *box] for label, score, box in zip(*(
            expected[name].tolist() for name in (
                'labels', 'scores', 'bboxes'))))
    np.testing.assert_allclose(rows, others, atol=2e-3)


def test_what_a_script_cannot_do(build, tmp_path):
    file = export_onnx(build('det'), tmp_path / 'x.onnx')[0]
    facts = open_session(file).get_modelmeta().custom_metadata_map
    assert not {'task', 'activation', 'decode'} & set(facts)
    for name in ('classify', 'segment', 'detect'):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / f'onnx_{name}.py'), str(file)],
            capture_output=True, text=True)
        assert done.returncode == 1 and 'expected a' in done.stderr


def test_facts_of_the_test_data():
    cfg = Config.fromfile(ROOT / 'configs/cls/qsdt_digits.py')
    facts = picture_facts(cfg)
    assert json.loads(facts['steps']) == [
        dict(type='ResizeEdge', scale=32, edge='short'),
        dict(type='CenterCrop', crop_size=32)]
    assert len(json.loads(facts.get('classes', '[]'))) in (0, 10)
    assert picture_facts(Config(dict(model=dict()))) == {}
