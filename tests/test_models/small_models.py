"""The frameworks' own models around a small QSDTransformer.

Spiking backbone, neck and heads, of 16 channels.
"""

from copy import deepcopy

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from shared import ARCH

import mmqsdt  # noqa: F401

WIDTH = 16
CLASSES = 3
NEURON = dict(type='mmqsdt.IELIF')
RELU = dict(type='ReLU')
NMS = dict(type='nms', iou_threshold=.7)
PROPOSALS = dict(nms_pre=100, max_per_img=20, nms=NMS, min_bbox_size=0)


def assigner(pos, neg):
    return dict(
        type='MaxIoUAssigner',
        pos_iou_thr=pos,
        neg_iou_thr=neg,
        min_pos_iou=0.,
        match_low_quality=True,
        ignore_iof_thr=-1)


def sampler(num, add_gt_as_proposals):
    return dict(
        type='RandomSampler',
        num=num,
        pos_fraction=.5,
        neg_pos_ub=-1,
        add_gt_as_proposals=add_gt_as_proposals)


def spike(neuron, bits):
    return dict(neuron=neuron, weight_bits=bits)


def detector(kind, unit, **kwargs):
    return dict(
        type=kind,
        data_preprocessor=dict(
            type='DetDataPreprocessor', pad_mask=True, pad_size_divisor=32),
        backbone=dict(
            type='mmqsdt.QSDTransformer',
            arch=ARCH,
            out_indices=(1, 2, 3, 4),
            stage4_stride=2,
            **unit),
        neck=dict(
            type='mmqsdt.SpikeFPN',
            in_channels=[8, 16, 16, 16],
            out_channels=WIDTH,
            num_outs=5,
            **unit),
        **kwargs)


def two_stage(kind, unit, roi_head, rcnn_train):
    return detector(
        kind,
        unit,
        rpn_head=dict(
            type='mmqsdt.SpikeRPNHead',
            in_channels=WIDTH,
            feat_channels=WIDTH,
            anchor_generator=dict(
                type='AnchorGenerator',
                scales=[8],
                ratios=[.5, 1., 2.],
                strides=[4, 8, 16, 32, 64]),
            loss_bbox=dict(type='L1Loss'),
            **unit),
        roi_head=roi_head,
        train_cfg=dict(
            rpn=dict(
                assigner=assigner(.7, .3),
                # All anchors, so that every level has a loss.
                sampler=sampler(10_000, False),
                allowed_border=-1,
                pos_weight=-1),
            rpn_proposal=PROPOSALS,
            rcnn=rcnn_train),
        test_cfg=dict(
            rpn=PROPOSALS,
            rcnn=dict(
                score_thr=0., nms=NMS, max_per_img=5, mask_thr_binary=.5)))


def extractor(size):
    return dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0),
        out_channels=WIDTH,
        featmap_strides=[4, 8, 16, 32])


def mask_head(unit):
    return dict(
        type='mmqsdt.SpikeFCNMaskHead',
        num_convs=2,
        in_channels=WIDTH,
        conv_out_channels=WIDTH,
        num_classes=CLASSES,
        **unit)


def rcnn_train(iou):
    return dict(
        assigner=assigner(iou, iou),
        sampler=sampler(16, True),
        mask_size=28,
        pos_weight=-1)


def mask_rcnn(unit):
    return two_stage(
        'MaskRCNN', unit,
        dict(
            type='StandardRoIHead',
            bbox_roi_extractor=extractor(7),
            bbox_head=dict(
                type='mmqsdt.SpikeShared2FCBBoxHead',
                in_channels=WIDTH,
                fc_out_channels=32,
                num_classes=CLASSES,
                predictor_neuron=True,
                **unit),
            mask_roi_extractor=extractor(14),
            mask_head=mask_head(unit)), rcnn_train(.5))


def cascade_rcnn(unit):
    return two_stage(
        'CascadeRCNN', unit,
        dict(
            type='CascadeRoIHead',
            num_stages=2,
            stage_loss_weights=[1, .5],
            bbox_roi_extractor=extractor(7),
            bbox_head=[
                dict(
                    type='mmqsdt.SpikeConvFCBBoxHead',
                    num_shared_convs=2,
                    num_shared_fcs=1,
                    in_channels=WIDTH,
                    conv_out_channels=WIDTH,
                    fc_out_channels=32,
                    num_classes=CLASSES,
                    norm_cfg=dict(type='BN'),
                    reg_class_agnostic=True,
                    reg_decoded_bbox=True,
                    loss_bbox=dict(type='GIoULoss', loss_weight=10.),
                    predictor_neuron=True,
                    **unit) for _ in range(2)
            ],
            mask_roi_extractor=extractor(14),
            mask_head=mask_head(unit)), [rcnn_train(.5),
                                         rcnn_train(.6)])


def retinanet(unit):
    model = detector(
        'RetinaNet',
        unit,
        bbox_head=dict(
            type='mmqsdt.SpikeRetinaHead',
            num_classes=CLASSES,
            in_channels=WIDTH,
            feat_channels=WIDTH,
            stacked_convs=2,
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
            **unit),
        train_cfg=dict(
            assigner=assigner(.5, .4), allowed_border=-1, pos_weight=-1),
        test_cfg=dict(
            nms_pre=100,
            min_bbox_size=0,
            score_thr=0.,
            nms=NMS,
            max_per_img=5))
    model['neck'].update(start_level=1, add_extra_convs='on_input')
    return model


def semantic_fpn(unit):
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 96)),
        backbone=dict(
            type='mmqsdt.QSDTransformer',
            arch=ARCH,
            out_indices=(0, 1, 2, 4),
            **unit),
        neck=dict(
            type='mmqsdt.SpikeFPN',
            in_channels=[4, 8, 16, 16],
            out_channels=WIDTH,
            num_outs=4,
            norm_cfg=dict(type='BN'),
            **unit),
        decode_head=dict(
            type='mmqsdt.SpikeFPNHead',
            in_channels=[WIDTH] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[2, 4, 8, 16],
            channels=WIDTH,
            num_classes=CLASSES,
            norm_cfg=dict(type='BN'),
            loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
            **unit),
        test_cfg=dict(mode='whole'))


def classifier(unit):
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(num_classes=CLASSES),
        backbone=dict(
            type='mmqsdt.QSDTransformer',
            arch=ARCH,
            out_indices=(4, ),
            **unit),
        head=dict(
            type='mmqsdt.SpikeLinearClsHead',
            num_classes=CLASSES,
            in_channels=16,
            loss=dict(type='CrossEntropyLoss'),
            **unit))


MODEL = dict(
    mask_rcnn=mask_rcnn,
    cascade_rcnn=cascade_rcnn,
    retinanet=retinanet,
    semantic_fpn=semantic_fpn)


def scope_of(name):
    return dict(
        semantic_fpn='mmseg', classifier='mmpretrain').get(name, 'mmdet')


def build(name, unit, **changes):
    """A model of MODEL, or the classifier; ``changes`` are merged into it."""
    config = Config(dict(model=dict(MODEL, classifier=classifier)[name](unit)))
    config.merge_from_dict(
        {f'model.{key}': value for key, value in changes.items()})
    with DefaultScope.overwrite_default_scope(scope_of(name)):
        model = MODELS.build(config.model)
        model.init_weights()
    return model


def random_data(name):
    if name == 'classifier':
        from mmpretrain.structures import DataSample
        return dict(
            inputs=list(torch.randint(256, (2, 3, 64, 96)).byte()),
            data_samples=[DataSample().set_gt_label(i) for i in range(2)])
    if name == 'semantic_fpn':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample
        samples = []
        for _ in range(2):
            labels = torch.randint(CLASSES, (1, 64, 96))
            sample = SegDataSample(
                metainfo=dict(
                    img_shape=(64, 96), ori_shape=(64, 96), pad_shape=(64,
                                                                       96)))
            sample.gt_sem_seg = PixelData(data=labels)
            samples.append(sample)
        images = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
        return dict(inputs=list(images), data_samples=samples)
    from mmdet.testing import demo_mm_inputs
    return demo_mm_inputs(
        2, [[3, 96, 128], [3, 128, 96]],
        num_items=[3, 3],
        num_classes=CLASSES,
        with_mask=True)


def one_loss(model, data):
    data = model.data_preprocessor(deepcopy(data), True)
    return model.train()(**data, mode='loss')


def predict(model, data):
    data = model.data_preprocessor(deepcopy(data), False)
    with torch.no_grad():
        return model.eval()(**data, mode='predict')
