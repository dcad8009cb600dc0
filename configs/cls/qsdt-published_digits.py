# QSD-Transformer on scanned digits with the published neuron, whose threshold
# is fixed at 0.25.
_base_ = './qsdt_digits.py'
neuron = dict(_delete_=True, type='mmqsdt.IELIF')
model = dict(backbone=dict(neuron=neuron), head=dict(neuron=neuron))
