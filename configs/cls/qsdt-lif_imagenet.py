# The baseline of QSD-Transformer 15M: binary LIF neurons over four time
# steps in place of IE-LIF over one, with the threshold that docs/ablation.md
# found for one step; at 1, SpikingJelly's own, hardly any neuron fires. The
# head, which reads a mean over time, keeps IE-LIF. Activations take four times
# the memory; model.backbone.with_cp=True makes room.
_base_ = './qsdt_imagenet.py'
model = dict(
    backbone=dict(
        neuron=dict(type='mmqsdt.LIF', threshold=0.5), time_steps=4))
