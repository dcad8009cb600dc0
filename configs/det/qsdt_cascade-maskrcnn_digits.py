# Cascade Mask R-CNN with spiking neck and heads on digits scenes: one conv and
# one linear layer in each of two box heads.
_base_ = './qsdt_maskrcnn_digits.py'
model = dict(
    type='CascadeRCNN',
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_head=[
            dict(
                _base_.model.roi_head.bbox_head,
                type='mmqsdt.SpikeConvFCBBoxHead',
                num_shared_convs=1,
                num_shared_fcs=1,
                conv_out_channels=_base_.width,
                norm_cfg=dict(type='BN', requires_grad=True),
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0., 0., 0., 0.],
                    target_stds=[center, center, size, size]),
                reg_class_agnostic=True,
                reg_decoded_bbox=True,
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0))
            for center, size in ((0.1, 0.2), (0.05, 0.1))
        ]),
    train_cfg=dict(rcnn=[
        dict(
            _base_.model.train_cfg.rcnn,
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=iou,
                neg_iou_thr=iou,
                min_pos_iou=iou,
                match_low_quality=False,
                ignore_iof_thr=-1)) for iou in (0.5, 0.6)
    ]))
