# qsdt-8m_imagenet.py with neurons that learn their thresholds: the one
# to train. Not published, so no weights of the authors fit it.
_base_ = './qsdt-8m_imagenet.py'
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
model = dict(backbone=dict(neuron=neuron), head=dict(neuron=neuron))
