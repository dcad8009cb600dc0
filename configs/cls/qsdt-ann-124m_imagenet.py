# The ANN counterpart of QSD-Transformer 124M.
_base_ = './qsdt-ann_imagenet.py'
model = dict(backbone=dict(arch='124m'), head=dict(in_channels=960))
