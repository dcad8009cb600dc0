"""Stock configs of the frameworks with our backbone put in: one line each."""

from copy import deepcopy
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

import mmqsdt  # noqa: F401  brings mmcv's operators

BACKBONE = dict(
    _delete_=True,
    type='mmqsdt.QSDTransformer',
    arch='tiny',
    out_indices=(1, 2, 3, 4),
    stage4_stride=2)
CHANNELS = [16, 48, 96, 128]
NECK = dict(in_channels=CHANNELS)
THREE = dict(BACKBONE, out_indices=(2, 3, 4))

DETECTORS = {
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': (BACKBONE, NECK),
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': (BACKBONE, NECK),
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py': (BACKBONE, NECK),
    'retinanet/retinanet_r50_fpn_1x_coco.py': (BACKBONE, NECK),
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': (BACKBONE, NECK),
    'atss/atss_r50_fpn_1x_coco.py': (BACKBONE, NECK),
    'reppoints/reppoints-moment_r50_fpn_1x_coco.py': (BACKBONE, NECK),
    'carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py': (BACKBONE, NECK),
    'guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py':
    (BACKBONE, NECK),
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py':
    (THREE, dict(in_channels=CHANNELS[1:])),
}
SEGMENTORS = {
    'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py': dict(neck=NECK),
    'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py': dict(
        decode_head=NECK, auxiliary_head=dict(in_channels=96)),
    'fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py': dict(
        decode_head=dict(in_channels=128),
        auxiliary_head=dict(in_channels=96)),
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py': dict(
        decode_head=NECK),
    'psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py': dict(
        decode_head=dict(in_channels=128, mask_size=(7, 7)),
        auxiliary_head=dict(in_channels=96)),
}


def stock_config(framework: str, name: str) -> Config:
    package = pytest.importorskip(framework)
    path = Path(package.__file__).parent / '.mim/configs' / name
    return Config.fromfile(path)


def build(cfg: Config, changes: dict) -> nn.Module:
    cfg.model.pop('pretrained', None)
    cfg.merge_from_dict(dict(model=deepcopy(changes)))
    if 'init_cfg' in cfg.model:  # the ImageNet weights of the one replaced
        cfg.model.init_cfg = None
    init_default_scope(cfg.default_scope)
    models = import_module(f'{cfg.default_scope}.registry').MODELS
    # SyncBN, of multi-GPU configs, has no CPU kernels.
    model = models.build(ConfigDict(without_sync_bn(cfg.model)))
    model.init_weights()
    return model


def without_sync_bn(value):
    if isinstance(value, dict):
        return {k: without_sync_bn(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(without_sync_bn(v) for v in value)
    return 'BN' if value == 'SyncBN' else value


def train_one_step(model: nn.Module, data: dict) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    data = model.data_preprocessor(data, True)
    loss = model.parse_losses(model(**data, mode='loss'))[0]
    loss.backward()
    assert torch.isfinite(loss)
    stem = model.backbone.stages[0].downsample.conv
    assert stem.weight.grad.abs().sum() > 0  # the backbone learns
    before = stem.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(stem.weight, before)


@pytest.mark.parametrize('name', DETECTORS)
def test_detector(name):
    cfg = stock_config('mmdet', name)
    from mmdet.testing import demo_mm_inputs
    backbone, neck = DETECTORS[name]
    model = build(cfg, dict(backbone=backbone, neck=neck))
    data = demo_mm_inputs(2, (3, 96, 128), num_items=[2, 3], with_mask=True)
    train_one_step(model, data)
    model.eval()
    with torch.no_grad():
        data = demo_mm_inputs(1, (3, 96, 128), num_items=[2])
        result, = model.test_step(data)
    boxes = result.pred_instances.bboxes
    assert boxes.shape == (len(result.pred_instances.scores), 4)
    assert ('masks' in result.pred_instances) == ('mask' in Path(name).name)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentor(name):
    cfg = stock_config('mmseg', name)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    model = build(
        cfg,
        dict(
            SEGMENTORS[name],
            backbone=BACKBONE,
            data_preprocessor=dict(size=(64, 96))))

    def data():
        labels = PixelData(data=torch.randint(0, 150, (1, 64, 96)))
        shape = dict(img_shape=(64, 96), ori_shape=(64, 96))
        return dict(
            inputs=[
                torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
                for _ in range(2)
            ],
            data_samples=[
                SegDataSample(metainfo=shape, gt_sem_seg=labels)
                for _ in range(2)
            ])

    train_one_step(model, data())
    model.eval()
    with torch.no_grad():
        results = model.test_step(data())
    assert [r.pred_sem_seg.shape for r in results] == [(64, 96)] * 2


def test_classifier_with_a_linear_head():
    cfg = stock_config('mmpretrain', 'resnet/resnet50_8xb32_in1k.py')
    from mmpretrain.structures import DataSample
    model = build(
        cfg,
        dict(
            backbone=dict(BACKBONE, out_indices=(4, ), stage4_stride=1),
            head=dict(in_channels=128)))
    data = dict(
        inputs=torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(i) for i in (3, 7)])
    train_one_step(model, data)
    model.eval()
    with torch.no_grad():
        results = model.test_step(data)
    assert [r.pred_score.shape for r in results] == [(1000, )] * 2
