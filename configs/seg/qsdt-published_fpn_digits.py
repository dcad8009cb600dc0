# Semantic FPN on digits scenes with the published neurons, whose thresholds
# are fixed, and float weights in spiking neck and head, as published.
_base_ = './qsdt-float-head_fpn_digits.py'
head = dict(
    neuron=dict(
        _delete_=True,
        type='mmqsdt.IELIF',
        threshold=1.,
        amplitude=0.25,
        rounding='half_even'))
model = dict(
    backbone=dict(neuron=dict(_delete_=True, type='mmqsdt.IELIF')),
    neck=head,
    decode_head=head)
