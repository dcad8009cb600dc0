# Semantic FPN with spiking neck and head, all of 4 bits, on digits scenes. The
# auxiliary head, which serves training alone, stays float.
_base_ = './qsdt_fpn-stock-head_digits.py'
unit = dict(neuron=_base_.neuron, weight_bits=4)
model = dict(
    neck=dict(
        type='mmqsdt.SpikeFPN',
        norm_cfg=dict(type='BN', requires_grad=True),
        **unit),
    decode_head=dict(type='mmqsdt.SpikeFPNHead', **unit))
