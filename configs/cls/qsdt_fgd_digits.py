# QSD-Transformer on scanned digits, distilled from its ANN counterpart; see
# docs/distillation.md. Train qsdt-ann_digits.py first.
_base_ = './qsdt_digits.py'
custom_hooks = [
    dict(
        type='mmqsdt.FGDistillHook',
        teacher='configs/cls/qsdt-ann_digits.py',
        checkpoint='work_dirs/qsdt-ann_digits/epoch_35.pth',
        loss=dict(type='mmqsdt.FGDLoss', loss_weight=1.))
]
