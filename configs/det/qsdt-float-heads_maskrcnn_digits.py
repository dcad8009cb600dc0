# Mask R-CNN on digits scenes whose spiking neck and heads have float weights.
_base_ = './qsdt_maskrcnn_digits.py'
model = dict(
    neck=dict(weight_bits=None),
    rpn_head=dict(weight_bits=None),
    roi_head=dict(
        bbox_head=dict(weight_bits=None), mask_head=dict(weight_bits=None)))
