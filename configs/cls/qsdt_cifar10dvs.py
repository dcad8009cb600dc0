# QSD-Transformer on CIFAR10-DVS: ten frames over time, two polarities. The
# paper names a score but no recipe; this is a plain one, from scratch, not
# tried on the whole data set. Another T needs all of
#   --cfg-options model.backbone.time_steps=4
#                 train_dataloader.dataset.frames_number=4
#                 val_dataloader.dataset.frames_number=4
#                 test_dataloader.dataset.frames_number=4
_base_ = [
    '../_base_/models/qsdt_cls.py', '../_base_/datasets/cifar10dvs.py',
    '../_base_/schedules/digits_adamw.py', '../_base_/cls_runtime.py'
]
epochs = 100
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
model = dict(
    # Counts of events, as they are: no mean, no colors.
    data_preprocessor=dict(
        _delete_=True, type='ClsDataPreprocessor', num_classes=10),
    backbone=dict(
        arch='tiny',
        in_channels=2,
        time_steps={{_base_.time_steps}},
        neuron=neuron),
    head=dict(num_classes=10, in_channels=128, neuron=neuron))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        end=5,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=5,
        end=epochs,
        convert_to_iter_based=True)
]
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=16)
