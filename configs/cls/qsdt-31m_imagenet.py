# QSD-Transformer 31M, ImageNet-1k, 8 x 196, 300 epochs, as published.
_base_ = './qsdt_imagenet.py'
model = dict(backbone=dict(arch='31m'), head=dict(in_channels=480))
