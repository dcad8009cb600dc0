# Mask R-CNN on digits scenes with the ANN counterpart: float weights and ReLU
# in the same layers. The teacher of qsdt_maskrcnn_fgd_digits.py.
_base_ = './qsdt_maskrcnn-stock-heads_digits.py'
model = dict(
    backbone=dict(
        weight_bits=None, neuron=dict(_delete_=True, type='ReLU')))
