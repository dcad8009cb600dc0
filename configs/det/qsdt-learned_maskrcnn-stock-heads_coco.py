# qsdt_maskrcnn-stock-heads_coco.py with neurons that learn their thresholds:
# the one to train. Not published.
_base_ = './qsdt_maskrcnn-stock-heads_coco.py'
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
model = dict(backbone=dict(neuron=neuron))
