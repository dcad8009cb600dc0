# Cascade Mask R-CNN on digits scenes with the published neurons and float
# weights in spiking neck and heads, as published.
_base_ = './qsdt_cascade-maskrcnn_digits.py'
neuron = dict(
    _delete_=True, type='mmqsdt.IELIF', threshold=1., amplitude=1.,
    rounding='half_even')
head = dict(neuron=neuron, weight_bits=None)
bare = dict(type='mmqsdt.IELIF', threshold=1., amplitude=1.,
            rounding='half_even')
model = dict(
    backbone=dict(neuron=dict(_delete_=True, type='mmqsdt.IELIF')),
    neck=head,
    rpn_head=head,
    roi_head=dict(
        bbox_head=[
            dict(each, neuron=bare, weight_bits=None)
            for each in _base_.model.roi_head.bbox_head
        ],
        mask_head=head))
