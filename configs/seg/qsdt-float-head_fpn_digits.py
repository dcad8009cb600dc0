# Semantic FPN on digits scenes whose spiking neck and head have float weights.
_base_ = './qsdt_fpn_digits.py'
model = dict(neck=dict(weight_bits=None), decode_head=dict(weight_bits=None))
