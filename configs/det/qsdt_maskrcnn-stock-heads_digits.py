# Mask R-CNN with a QSD-Transformer and mmdet's own neck and heads on digits
# scenes: minutes on two cores.
_base_ = [
    '../_base_/models/maskrcnn_qsdt_fpn.py',
    '../_base_/datasets/digits_instance.py',
    '../_base_/schedules/digits_adamw.py', '../_base_/det_runtime.py'
]
epochs = 6
width = 64
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
model = dict(
    backbone=dict(arch='tiny', neuron=neuron),
    neck=dict(in_channels=[16, 48, 96, 128], out_channels=width),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[6])),
    roi_head=dict(
        # Two samples a bin side are enough for boxes of so few cells. The
        # default takes as many as there are cells, and much of the time.
        bbox_roi_extractor=dict(
            out_channels=width,
            finest_scale=28,
            roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(
            in_channels=width, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(
            out_channels=width,
            finest_scale=28,
            roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(
            in_channels=width,
            conv_out_channels=width,
            num_convs=1,
            num_classes=10)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=48, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end=epochs,
        convert_to_iter_based=True)
]
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(interval=20),
    channels_last=dict(type='mmqsdt.ChannelsLastHook'))
