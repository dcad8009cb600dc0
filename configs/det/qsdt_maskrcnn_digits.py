# Mask R-CNN with spiking neck and heads, all of 4 bits, on digits scenes. The
# last layer of each head, which gives the results, has 4-bit weights as well.
_base_ = './qsdt_maskrcnn-stock-heads_digits.py'
norm_cfg = dict(type='BN', requires_grad=True)
unit = dict(neuron=_base_.neuron, weight_bits=4)
model = dict(
    neck=dict(type='mmqsdt.SpikeFPN', norm_cfg=norm_cfg, **unit),
    rpn_head=dict(type='mmqsdt.SpikeRPNHead', **unit),
    roi_head=dict(
        bbox_head=dict(type='mmqsdt.SpikeShared2FCBBoxHead', **unit),
        mask_head=dict(
            type='mmqsdt.SpikeFCNMaskHead', norm_cfg=norm_cfg, **unit)))
