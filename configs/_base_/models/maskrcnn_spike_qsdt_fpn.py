# Mask R-CNN whose neck and heads spike too, with float weights, as published.
_base_ = './maskrcnn_qsdt_fpn.py'
model = dict(
    neck=dict(type='mmqsdt.SpikeFPN'),
    rpn_head=dict(type='mmqsdt.SpikeRPNHead'),
    roi_head=dict(
        bbox_head=dict(type='mmqsdt.SpikeShared2FCBBoxHead'),
        mask_head=dict(type='mmqsdt.SpikeFCNMaskHead')))
