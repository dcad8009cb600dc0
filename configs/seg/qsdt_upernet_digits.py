# UPerNet with mmseg's own heads on digits scenes.
_base_ = './qsdt_fpn-stock-head_digits.py'
norm = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(out_indices=(1, 2, 3, 4), stage4_stride=2),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='UPerHead',
        in_channels=[32, 64, 96, 128],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2),
        channels=_base_.width,
        num_classes=11,
        norm_cfg=norm,
        align_corners=False,
        loss_decode=_base_.model.decode_head.loss_decode),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=96,
        in_index=2,
        channels=_base_.width,
        num_convs=1,
        concat_input=False,
        num_classes=11,
        norm_cfg=norm,
        align_corners=False,
        loss_decode=dict(
            _base_.model.decode_head.loss_decode, loss_weight=0.4)))
