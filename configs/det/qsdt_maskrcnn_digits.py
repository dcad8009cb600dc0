# Mask R-CNN with spiking neck and heads on digits scenes. Batch norm in neck
# and mask head keeps the potentials in the range of the neurons behind it.
_base_ = './qsdt_maskrcnn-stock-heads_digits.py'
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    neck=dict(type='mmqsdt.SpikeFPN', norm_cfg=norm_cfg),
    rpn_head=dict(type='mmqsdt.SpikeRPNHead'),
    roi_head=dict(
        bbox_head=dict(type='mmqsdt.SpikeShared2FCBBoxHead'),
        mask_head=dict(type='mmqsdt.SpikeFCNMaskHead', norm_cfg=norm_cfg)))
