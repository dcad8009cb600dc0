# qsdt_maskrcnn_coco.py with neurons that learn their thresholds and 4-bit
# weights in neck and heads: the one to train. Not published.
_base_ = './qsdt_maskrcnn_coco.py'
neuron = dict(type='mmqsdt.IELIF', threshold='learned')
unit = dict(neuron=neuron, weight_bits=4)
model = dict(
    backbone=dict(neuron=neuron),
    neck=unit,
    rpn_head=unit,
    roi_head=dict(bbox_head=unit, mask_head=unit))
