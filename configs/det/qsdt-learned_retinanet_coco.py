# qsdt_retinanet_coco.py with neurons that learn their thresholds and 4-bit
# weights in neck and head: the one to train. Not published.
_base_ = './qsdt_retinanet_coco.py'
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
unit = dict(neuron=neuron, weight_bits=4)
model = dict(backbone=dict(neuron=neuron), neck=unit, bbox_head=unit)
