# QSD-Transformer 15M on ImageNet-1k, distilled from its ANN counterpart; see
# docs/distillation.md. Train qsdt-ann_imagenet.py first.
_base_ = './qsdt_imagenet.py'
custom_hooks = [
    dict(
        type='EMAHook',
        momentum=1 - 0.99996,
        update_buffers=True,
        priority='ABOVE_NORMAL'),
    dict(
        type='mmqsdt.FGDistillHook',
        teacher='configs/cls/qsdt-ann_imagenet.py',
        checkpoint='work_dirs/qsdt-ann_imagenet/epoch_300.pth',
        loss=dict(type='mmqsdt.FGDLoss', loss_weight=1.))
]
