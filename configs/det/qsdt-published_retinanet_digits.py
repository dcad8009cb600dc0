# RetinaNet on digits scenes with the published neurons and float weights in
# spiking neck and head, as published.
_base_ = './qsdt_retinanet_digits.py'
head = dict(
    weight_bits=None,
    neuron=dict(
        _delete_=True, type='mmqsdt.IELIF', threshold=1., amplitude=1.,
        rounding='half_even'))
model = dict(
    backbone=dict(neuron=dict(_delete_=True, type='mmqsdt.IELIF')),
    neck=head,
    bbox_head=head)
