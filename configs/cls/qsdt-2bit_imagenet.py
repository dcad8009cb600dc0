# QSD-Transformer 15M with 2-bit weights.
_base_ = './qsdt_imagenet.py'
model = dict(backbone=dict(weight_bits=2), head=dict(weight_bits=2))
