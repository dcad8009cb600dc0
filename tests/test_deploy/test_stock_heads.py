"""Stock necks and heads whose convs have codes and whose neurons spike.

Not a line of them is ours: conv_cfg and act_cfg where they take it, else
a neuron in the place of the activation of their ConvModules.
"""

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from networks import as_if_trained, assert_equal_forms, assert_written

from mmqsdt.deploy import (
    compare_forms,
    describe,
    to_fast,
    to_integer,
    to_spikes,
)
from mmqsdt.layers import IELIF

CONV, ACT, NORM = (dict(type='mmqsdt.LSQConv2d', bits=4),
                   dict(type='mmqsdt.IELIF'), dict(type='BN'))
WIDTH = 8
NMS = dict(type='nms', iou_threshold=.7)
ONE_STAGE = dict(
    nms_pre=50, min_bbox_size=0, score_thr=0., nms=NMS, max_per_img=5)
ANCHORS = dict(
    type='mmdet.AnchorGenerator', scales=[8], ratios=[1.],
    strides=[4, 8, 16, 32])


def backbone(*taps: int) -> dict:
    return dict(
        type='mmqsdt.QSDTransformer', out_indices=taps, stage4_stride=2,
        arch=dict(embed_dims=(8, 8, 8, 8), depths=(1, 1), num_heads=2))


def detector(kind: str, **heads) -> dict:
    return dict(
        type=kind, backbone=backbone(1, 2, 3, 4),
        neck=dict(type='mmdet.FPN', in_channels=[8] * 4, out_channels=WIDTH,
                  num_outs=4, conv_cfg=CONV, act_cfg=ACT, norm_cfg=NORM),
        **heads)


def head(kind: str, **kwargs) -> dict:
    return dict(type=f'mmdet.{kind}', in_channels=WIDTH, conv_cfg=CONV,
                norm_cfg=NORM, **kwargs)


def retina() -> dict:
    return detector('mmdet.RetinaNet', test_cfg=ONE_STAGE, bbox_head=head(
        'RetinaHead', feat_channels=WIDTH, num_classes=3, stacked_convs=2,
        anchor_generator=ANCHORS))


def fcos() -> dict:
    return detector('mmdet.FCOS', test_cfg=ONE_STAGE, bbox_head=head(
        'FCOSHead', feat_channels=WIDTH, num_classes=3, stacked_convs=2,
        strides=[4, 8, 16, 32], regress_ranges=(
            (-1, 32), (32, 64), (64, 128), (128, 1e8))))


def mask_rcnn() -> dict:
    def extractor(size: int, layer: str) -> dict:
        layer = dict(type=layer, output_size=size)
        return dict(type='mmdet.SingleRoIExtractor', roi_layer=layer,
                    out_channels=WIDTH, featmap_strides=[4, 8, 16, 32])

    return detector(
        'mmdet.MaskRCNN', train_cfg=None,
        rpn_head=dict(type='mmdet.RPNHead', in_channels=WIDTH, num_convs=2,
                      feat_channels=WIDTH, anchor_generator=ANCHORS),
        roi_head=dict(
            type='mmdet.StandardRoIHead',
            bbox_roi_extractor=extractor(7, 'RoIPool'),
            bbox_head=head('ConvFCBBoxHead', num_shared_convs=1,
                           num_shared_fcs=1, conv_out_channels=WIDTH,
                           fc_out_channels=16, num_classes=3),
            mask_roi_extractor=extractor(14, 'RoIAlign'),
            mask_head=head('FCNMaskHead', num_convs=2, num_classes=3,
                           conv_out_channels=WIDTH)),
        test_cfg=dict(
            rpn=dict(nms_pre=50, max_per_img=10, nms=NMS, min_bbox_size=0),
            rcnn=dict(score_thr=0., nms=NMS, max_per_img=5,
                      mask_thr_binary=.5)))


def upernet() -> dict:
    return dict(
        type='mmseg.EncoderDecoder', backbone=backbone(0, 1, 2, 3),
        decode_head=dict(
            type='mmseg.UPerHead', in_channels=[4, 8, 8, 8],
            in_index=[0, 1, 2, 3], channels=WIDTH, num_classes=3,
            pool_scales=(1, 2), conv_cfg=CONV, act_cfg=ACT, norm_cfg=NORM),
        test_cfg=dict(mode='whole'))


# What some layers read; a mean over bins or pixels is no spike any more.
MODELS_OF = {
    'retina': ('mmdet', retina, {
        'neck.fpn_convs.1.conv': 'add of spikes in neck',
        'bbox_head.cls_convs.0.conv': 'neck.fpn_convs.0.activate',
        'bbox_head.cls_convs.1.conv': 'bbox_head.cls_convs.0.activate',
        'bbox_head.retina_reg': 'bbox_head.reg_convs.1.activate'}),
    'fcos': ('mmdet', fcos, {
        'bbox_head.cls_convs.1.conv': 'bbox_head.cls_convs.0.activate',
        'bbox_head.conv_centerness': 'bbox_head.cls_convs.1.activate'}),
    'mask_rcnn': ('mmdet', mask_rcnn, {
        'rpn_head.rpn_conv.0.conv': 'neck.fpn_convs.0.activate',
        'roi_head.bbox_head.shared_convs.0.conv': 'neck.fpn_convs.0.activate',
        'roi_head.bbox_head.shared_fcs.0':
        'roi_head.bbox_head.shared_convs.0.activate',
        'roi_head.bbox_head.fc_cls': 'Linear roi_head.bbox_head.shared_fcs',
        'roi_head.mask_head.convs.0.conv':
        'RoIAlign of spikes in roi_head.mask_roi_extractor',
        'roi_head.mask_head.convs.1.conv':
        'roi_head.mask_head.convs.0.activate',
        'roi_head.mask_head.upsample': 'roi_head.mask_head.convs.1.activate',
    }),
    'upernet': ('mmseg', upernet, {
        'decode_head.psp_modules.0.1.conv': 'adaptive_avg_pool2d in',
        'decode_head.bottleneck.conv':
        "interpolate with mode='bilinear' of spikes",
        'decode_head.fpn_convs.0.conv': 'add of spikes in decode_head',
        'decode_head.fpn_bottleneck.conv':
        "interpolate with mode='bilinear' of spikes",
        'decode_head.conv_seg': 'decode_head.fpn_bottleneck.activate'}),
}


@pytest.fixture
def build():
    """A model by its name; its data."""

    def build(name: str, dtype: torch.dtype):
        framework, config, reads = MODELS_OF[name]
        pytest.importorskip(f'{framework}.models')
        model = MODELS.build(ConfigDict(config()))
        for module in model.modules():
            if isinstance(module, ConvModule) and module.with_activation:
                module.activate = IELIF()
        model = as_if_trained(model).to(dtype)
        data = dict(inputs=torch.randn(2, 3, 64, 64, dtype=dtype))
        if framework == 'mmdet':
            from mmdet.structures import DetDataSample
            size = 64, 64
            facts = dict(img_shape=size, ori_shape=size, pad_shape=size,
                         batch_input_shape=size, scale_factor=(1., 1.))
            data['data_samples'] = [
                DetDataSample(metainfo=facts) for _ in range(2)]
        return model, data, reads

    return build


@pytest.mark.parametrize('name', MODELS_OF)
def test_what_their_layers_read(name, build):
    model, data, reads = build(name, torch.float32)
    mode = 'predict' if name != 'upernet' else 'tensor'
    for rows in (describe(model), describe(model, dict(data, mode=mode))):
        found = {d.name: d.source for d in rows}
        for layer, source in reads.items():
            assert found[layer].startswith(source), (layer, found[layer])


@pytest.mark.parametrize('form', [
    to_integer, to_spikes, lambda model: to_spikes(model, 'bitwise')
], ids=['integer', 'thermometer', 'bitwise'])
@pytest.mark.parametrize('name', MODELS_OF)
def test_their_forms_are_equal(name, form, build):
    model, data, _ = build(name, torch.float64)
    report = compare_forms(model, form(model), dict(data, mode='tensor'))
    assert report.elements > 10000 and report.flips == 0, str(report)
    assert report.output_error < 1e-12  # float64 sums in another order


@pytest.mark.parametrize('name', MODELS_OF)
def test_their_fast_forms_are_equal(name, build):
    model, data, _ = build(name, torch.float32)
    assert_equal_forms(model, to_fast(model), dict(data, mode='tensor'))


# FCOS has outputs, UPerNet pools of which there is no translation.
@pytest.mark.parametrize('name', ['retina', 'mask_rcnn'])
def test_their_graphs_are_equal(name, build):
    onnx = pytest.importorskip('mmqsdt.deploy.onnx_graph')
    model, data, _ = build(name, torch.float32)
    report = onnx.compare_onnx(model, data['inputs'])
    assert report.elements > 10000
    assert_written(report)
