# Mask R-CNN on digits scenes, its backbone distilled from the ANN
# counterpart; see docs/distillation.md. Train qsdt-ann_maskrcnn_digits.py
# first.
_base_ = './qsdt_maskrcnn_digits.py'
custom_hooks = [
    dict(
        type='mmqsdt.FGDistillHook',
        teacher='configs/det/qsdt-ann_maskrcnn_digits.py',
        checkpoint='work_dirs/qsdt-ann_maskrcnn_digits/epoch_6.pth',
        loss=dict(type='mmqsdt.FGDLoss', loss_weight=1.))
]
