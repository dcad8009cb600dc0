# Semantic FPN, QSD-Transformer 31M, ADE20K. Nothing was published for this
# size: the neck, head and recipe of the 15M one.
_base_ = './qsdt_fpn_ade20k.py'
model = dict(
    backbone=dict(arch='31m'), neck=dict(in_channels=[48, 96, 192, 480]))
