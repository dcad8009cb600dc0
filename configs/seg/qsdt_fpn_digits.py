# Semantic FPN with spiking neck and head on digits scenes.
_base_ = './qsdt_fpn-stock-head_digits.py'
model = dict(
    neck=dict(
        type='mmqsdt.SpikeFPN',
        neuron=dict(
            type='mmqsdt.IELIF',
            threshold=1.,
            amplitude=0.25,
            rounding='half_even'),
        norm_cfg=dict(type='BN', requires_grad=True)),
    decode_head=dict(type='mmqsdt.SpikeFPNHead'))
