# Semantic FPN on digits scenes with the ANN counterpart: float weights and
# ReLU in the same layers. The teacher of qsdt_fpn_fgd_digits.py.
_base_ = './qsdt_fpn-stock-head_digits.py'
model = dict(
    backbone=dict(
        weight_bits=None, neuron=dict(_delete_=True, type='ReLU')))
