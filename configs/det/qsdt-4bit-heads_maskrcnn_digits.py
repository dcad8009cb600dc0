# Mask R-CNN whose spiking neck and heads have 4-bit weights too, on digits
# scenes. The last layer of each head, which gives the results, has them as
# well.
_base_ = './qsdt_maskrcnn_digits.py'
model = dict(
    neck=dict(weight_bits=4),
    rpn_head=dict(weight_bits=4),
    roi_head=dict(
        bbox_head=dict(weight_bits=4), mask_head=dict(weight_bits=4)))
