# The ANN counterpart of QSD-Transformer 8M.
_base_ = './qsdt-ann_imagenet.py'
model = dict(backbone=dict(arch='8m'), head=dict(in_channels=256))
