# qsdt_upernet_ade20k.py with neurons that learn their thresholds: the one to
# train. Not published.
_base_ = './qsdt_upernet_ade20k.py'
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
model = dict(backbone=dict(neuron=neuron))
