# QSD-Transformer 124M, ImageNet-1k, 8 x 196, 300 epochs, as published.
_base_ = './qsdt_imagenet.py'
model = dict(backbone=dict(arch='124m'), head=dict(in_channels=960))
