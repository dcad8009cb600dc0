# Semantic FPN with a QSD-Transformer on digits scenes: minutes on two cores.
# Ink and background part within 100 iterations; only after 800 or so does the
# network begin to tell the digits apart. A small rate or batch never gets
# there, and without the random crops it then learns the scenes by heart.
_base_ = [
    '../_base_/models/fpn_qsdt.py', '../_base_/datasets/digits_semantic.py',
    '../_base_/schedules/digits_adamw.py', '../_base_/seg_runtime.py'
]
iterations = 2000
width = 32
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch='tiny'),
    neck=dict(in_channels=[8, 16, 48, 128], out_channels=width),
    decode_head=dict(
        in_channels=[width] * 4,
        channels=width,
        num_classes=11,
        # Nine pixels in ten are background.
        loss_decode=dict(class_weight=[0.2] + [1.] * 10)))
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
    type='IterBasedTrainLoop', max_iters=iterations, val_interval=1000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=1000),
    channels_last=dict(type='mmqsdt.ChannelsLastHook'))
