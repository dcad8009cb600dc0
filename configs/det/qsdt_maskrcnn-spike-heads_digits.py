# The digits detector with spiking neck and heads.
_base_ = './qsdt_maskrcnn_digits.py'
model = dict(
    neck=dict(type='mmqsdt.SpikeFPN'),
    rpn_head=dict(type='mmqsdt.SpikeRPNHead'),
    roi_head=dict(
        bbox_head=dict(type='mmqsdt.SpikeShared2FCBBoxHead'),
        mask_head=dict(type='mmqsdt.SpikeFCNMaskHead')))
