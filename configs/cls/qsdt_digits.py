# QSD-Transformer on scanned digits: minutes on two CPU cores.
# With a neuron in front of every conv but the stem, so that all others
# accumulate spikes: --cfg-options model.backbone.inner_neurons=True
_base_ = [
    '../_base_/models/qsdt_cls.py', '../_base_/datasets/digits_cls.py',
    '../_base_/schedules/digits_adamw.py', '../_base_/cls_runtime.py'
]
epochs = 35
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
model = dict(
    data_preprocessor=dict(num_classes=10),
    backbone=dict(arch='tiny', neuron=neuron),
    head=dict(num_classes=10, in_channels=128, neuron=neuron))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        end=1,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=1,
        end=epochs,
        convert_to_iter_based=True)
]
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=5)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(
    logger=dict(interval=20),
    channels_last=dict(type='mmqsdt.ChannelsLastHook'))
