# The yardstick: a stock ResNet-18 of half the width and mmseg's own FPN head.
_base_ = './qsdt_fpn-stock-head_digits.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        base_channels=32,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch'),
    neck=dict(in_channels=[32, 64, 128, 256]),
    decode_head=dict(feature_strides=[4, 8, 16, 32]))
