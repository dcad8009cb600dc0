"""Small models of the three tasks, as if they had been trained."""

from collections.abc import Callable

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from networks import CONVERSIONS, as_if_trained
from shared import ARCH
from torch import nn

import mmqsdt  # noqa: F401

WIDTH = 16
CLASSES = 3
NMS = dict(type='nms', iou_threshold=.7)


def classifier(unit: dict, backbone: dict) -> dict:
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='mmqsdt.QSDTransformer', arch=ARCH, **unit, **backbone),
        head=dict(
            type='mmqsdt.SpikeLinearClsHead',
            num_classes=10,
            in_channels=16,
            **unit))


def detector(unit: dict, backbone: dict) -> dict:
    def extractor(size: int) -> dict:
        return dict(
            type='mmdet.SingleRoIExtractor',
            roi_layer=dict(
                type='RoIAlign', output_size=size, sampling_ratio=0),
            out_channels=WIDTH,
            featmap_strides=[4, 8, 16, 32])

    return dict(
        type='mmdet.MaskRCNN',
        backbone=dict(
            type='mmqsdt.QSDTransformer',
            arch=ARCH,
            out_indices=(1, 2, 3, 4),
            stage4_stride=2,
            **unit,
            **backbone),
        neck=dict(
            type='mmqsdt.SpikeFPN',
            in_channels=[8, 16, 16, 16],
            out_channels=WIDTH,
            num_outs=5,
            **unit),
        rpn_head=dict(
            type='mmqsdt.SpikeRPNHead',
            in_channels=WIDTH,
            feat_channels=WIDTH,
            anchor_generator=dict(
                type='mmdet.AnchorGenerator',
                scales=[8],
                ratios=[.5, 1., 2.],
                strides=[4, 8, 16, 32, 64]),
            **unit),
        roi_head=dict(
            type='mmdet.StandardRoIHead',
            bbox_roi_extractor=extractor(7),
            bbox_head=dict(
                type='mmqsdt.SpikeShared2FCBBoxHead',
                in_channels=WIDTH,
                fc_out_channels=32,
                num_classes=CLASSES,
                predictor_neuron=True,
                **unit),
            mask_roi_extractor=extractor(14),
            # A stock head beside spiking ones: it stays as it is.
            mask_head=dict(
                type='mmdet.FCNMaskHead',
                num_convs=1,
                in_channels=WIDTH,
                conv_out_channels=WIDTH,
                num_classes=CLASSES)),
        train_cfg=None,
        test_cfg=dict(
            rpn=dict(
                nms_pre=100, max_per_img=20, nms=NMS, min_bbox_size=0),
            rcnn=dict(
                score_thr=0., nms=NMS, max_per_img=5, mask_thr_binary=.5)))


def segmenter(unit: dict, backbone: dict) -> dict:
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmqsdt.QSDTransformer',
            arch=ARCH,
            out_indices=(0, 1, 2, 4),
            **unit,
            **backbone),
        neck=dict(
            type='mmseg.FPN',
            in_channels=[4, 8, 16, 16],
            out_channels=WIDTH,
            num_outs=4),
        decode_head=dict(
            type='mmqsdt.SpikeFPNHead',
            in_channels=[WIDTH] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[2, 4, 8, 16],
            channels=WIDTH,
            num_classes=CLASSES,
            norm_cfg=dict(type='BN'),
            loss_decode=dict(type='mmseg.CrossEntropyLoss'),
            **unit),
        test_cfg=dict(mode='whole'))


TASKS = dict(
    cls=('mmpretrain', classifier),
    det=('mmdet', detector),
    seg=('mmseg', segmenter))


@pytest.fixture(params=CONVERSIONS)
def convert(request):
    return CONVERSIONS[request.param]


# In float64 the fast form is the integer form: test_fast.py, test_in_float64.
EXACT = [name for name in CONVERSIONS if name != 'fast']


@pytest.fixture(params=EXACT)
def exact(request):
    """A conversion that has a path of its own in float64."""
    return CONVERSIONS[request.param]


@pytest.fixture(params=[
    *((name, torch.float64) for name in EXACT),
    *((name, torch.float32) for name in CONVERSIONS)],
    ids=lambda x: f'{x[0]}-{str(x[1])[6:]}')
def conversion(request) -> tuple[Callable, torch.dtype]:
    """A conversion, and the number format to test it in."""
    name, dtype = request.param
    return CONVERSIONS[name], dtype


@pytest.fixture
def build() -> Callable[..., nn.Module]:
    """``build(task, **backbone)``: a model of 'cls', 'det' or 'seg'.

    weight_bits and neuron hold for neck and heads too, the rest is the
    backbone's.
    """

    def build(task: str,
              weight_bits: int | None = 4,
              neuron: dict = dict(type='mmqsdt.IELIF'),
              **backbone) -> nn.Module:
        framework, config = TASKS[task]
        pytest.importorskip(f'{framework}.models')
        unit = dict(weight_bits=weight_bits, neuron=neuron)
        config = ConfigDict(config(unit, backbone))
        return as_if_trained(MODELS.build(config))

    return build


@pytest.fixture
def inputs() -> Callable[..., dict]:
    """``inputs(task, dtype)``: arguments of a model's forward."""

    def inputs(task: str, dtype: torch.dtype = torch.float32) -> dict:
        side = 32 if task == 'cls' else 64
        images = torch.randn(2, 3, side, side, dtype=dtype)
        if task != 'det':
            return dict(inputs=images)
        from mmdet.structures import DetDataSample
        size = (64, 64)
        shapes = dict(
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1., 1.))
        samples = [DetDataSample(metainfo=shapes) for _ in images]
        # mmdet pastes masks in float32 only; the raw outputs are the same.
        mode = 'predict' if dtype == torch.float32 else 'tensor'
        return dict(inputs=images, data_samples=samples, mode=mode)

    return inputs
