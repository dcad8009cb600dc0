# The ANN counterpart of QSD-Transformer 31M.
_base_ = './qsdt-ann_imagenet.py'
model = dict(backbone=dict(arch='31m'), head=dict(in_channels=480))
