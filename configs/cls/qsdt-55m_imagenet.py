# QSD-Transformer 55M, ImageNet-1k, 8 x 196, 300 epochs, as published.
_base_ = './qsdt_imagenet.py'
model = dict(backbone=dict(arch='55m'), head=dict(in_channels=640))
