# The ANN counterpart of QSD-Transformer 75M.
_base_ = './qsdt-ann_imagenet.py'
model = dict(backbone=dict(arch='75m'), head=dict(in_channels=640))
