# The ANN counterpart on ImageNet: float weights and ReLU in the same layers.
# The teacher of qsdt_fgd_imagenet.py.
_base_ = './qsdt_imagenet.py'
ann = dict(weight_bits=None, neuron=dict(type='ReLU'))
model = dict(backbone=ann, head=ann)
