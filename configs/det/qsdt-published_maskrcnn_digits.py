# Mask R-CNN on digits scenes with the published neurons, whose thresholds are
# fixed, and float weights in spiking neck and heads, as published. Batch norm
# in neck and mask head keeps the potentials in the range of the neurons.
_base_ = './qsdt-float-heads_maskrcnn_digits.py'
head = dict(
    neuron=dict(
        _delete_=True, type='mmqsdt.IELIF', threshold=1., amplitude=1.,
        rounding='half_even'))
model = dict(
    backbone=dict(neuron=dict(_delete_=True, type='mmqsdt.IELIF')),
    neck=head,
    rpn_head=head,
    roi_head=dict(bbox_head=head, mask_head=head))
