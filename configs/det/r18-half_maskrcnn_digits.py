# The yardstick: a stock ResNet-18 of half the width in the same detector.
_base_ = './qsdt_maskrcnn-stock-heads_digits.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        base_channels=32,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch'),
    neck=dict(in_channels=[32, 64, 128, 256]))
