# Semantic FPN on digits scenes, its backbone distilled from the ANN
# counterpart; see docs/distillation.md. Train qsdt-ann_fpn_digits.py first.
_base_ = './qsdt_fpn_digits.py'
custom_hooks = [
    dict(
        type='mmqsdt.FGDistillHook',
        teacher='configs/seg/qsdt-ann_fpn_digits.py',
        checkpoint='work_dirs/qsdt-ann_fpn_digits/iter_1200.pth',
        loss=dict(type='mmqsdt.FGDLoss', loss_weight=1.))
]
