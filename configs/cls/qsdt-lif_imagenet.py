# The baseline of QSD-Transformer 15M: binary LIF neurons over four time
# steps in place of IE-LIF over one. Activations take four times the memory;
# model.backbone.with_cp=True makes room.
_base_ = './qsdt_imagenet.py'
model = dict(
    backbone=dict(neuron=dict(type='mmqsdt.LIF'), time_steps=4),
    head=dict(neuron=dict(type='mmqsdt.LIF')))
