# The ANN counterpart on scanned digits: float weights and ReLU in the same
# layers. The teacher of qsdt_fgd_digits.py.
_base_ = './qsdt_digits.py'
ann = dict(weight_bits=None, neuron=dict(_delete_=True, type='ReLU'))
model = dict(backbone=ann, head=ann)
