# RetinaNet with spiking neck and head, all of 4 bits, on digits scenes.
_base_ = [
    '../_base_/models/retinanet_spike_qsdt_fpn.py',
    '../_base_/datasets/digits_instance.py',
    '../_base_/schedules/digits_adamw.py', '../_base_/det_runtime.py'
]
epochs = 5
width = 64
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
unit = dict(neuron=neuron, weight_bits=4)
model = dict(
    backbone=dict(arch='tiny', neuron=neuron),
    neck=dict(
        in_channels=[16, 48, 96, 128], out_channels=width, **unit),
    bbox_head=dict(
        in_channels=width, feat_channels=width, stacked_convs=2,
        num_classes=10, **unit))
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
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(interval=20),
    channels_last=dict(type='mmqsdt.ChannelsLastHook'))
