# Semantic FPN, QSD-Transformer 55M, ADE20K. Nothing was published for this
# size: the neck, head and recipe of the 15M one.
_base_ = './qsdt_fpn_ade20k.py'
model = dict(
    backbone=dict(arch='55m'), neck=dict(in_channels=[64, 128, 256, 640]))
