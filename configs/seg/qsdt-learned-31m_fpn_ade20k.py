# qsdt-31m_fpn_ade20k.py with neurons that learn their thresholds and 4-bit
# weights in neck and head: the one to train. Not published.
_base_ = './qsdt-31m_fpn_ade20k.py'
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
unit = dict(neuron=neuron, weight_bits=4)
model = dict(
    backbone=dict(neuron=neuron),
    neck=dict(unit, neuron=dict(neuron, _delete_=True)),
    decode_head=unit)
