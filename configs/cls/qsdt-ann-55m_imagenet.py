# The ANN counterpart of QSD-Transformer 55M.
_base_ = './qsdt-ann_imagenet.py'
model = dict(backbone=dict(arch='55m'), head=dict(in_channels=640))
