# Semantic FPN with a QSD-Transformer and mmseg's own head on digits scenes:
# minutes on two cores. Ink and background part within 100 iterations; only
# after 400 or so does the network begin to tell the digits apart. The
# auxiliary loss, on the map of stride 8, brings that forward.
_base_ = [
    '../_base_/models/fpn_qsdt.py', '../_base_/datasets/digits_semantic.py',
    '../_base_/schedules/digits_adamw.py', '../_base_/seg_runtime.py'
]
iterations = 1200
width = 32
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    # Wider than 'tiny' where the digits are seen.
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=(32, 64, 96, 128), depths=4),
        neuron=neuron),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=width),
    decode_head=dict(
        in_channels=[width] * 4,
        channels=width,
        num_classes=11,
        # Nine pixels in ten are background.
        loss_decode=dict(class_weight=[0.4] + [1.] * 10)),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=width,
        in_index=2,
        channels=width,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.,
        num_classes=11,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss',
            loss_weight=0.4,
            class_weight=[0.2] + [1.] * 10)))
optim_wrapper = dict(optimizer=dict(lr=5e-3))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='PolyLR',
        power=0.9,
        eta_min=1e-5,
        begin=50,
        end=iterations,
        by_epoch=False)
]
train_cfg = dict(
    type='IterBasedTrainLoop',
    max_iters=iterations,
    val_interval=iterations // 2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=iterations // 2),
    channels_last=dict(type='mmqsdt.ChannelsLastHook'))
