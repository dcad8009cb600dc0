"""Spiking RetinaNet head, for MMDetection."""

from mmdet.models.dense_heads import RetinaHead

from ...registry import MODELS
from ..spike_units import HEAD_NEURON, to_spike_conv


@MODELS.register_module()
class SpikeRetinaHead(RetinaHead):
    """mmdet's RetinaHead whose convs read spikes.

    Two branches of stacked_convs x [neuron -> 3x3 conv -> norm], then
    neuron -> 3x3 conv for scores and for deltas. Anchors, losses and
    post-processing are mmdet's. The neurons work at T = 1 and remember
    nothing; the same function in training and in evaluation.

    Args:
        num_classes (int): Classes.
        in_channels (int): Channels of the input maps.
        neuron (dict): Config of the neurons; ``dict(type='ReLU')`` gives
            mmdet's own head behind a ReLU. Defaults to IE-LIF with threshold
            and amplitude 1, rounding half to even.
        weight_bits (int, optional): Bits of the weights; None for float, as
            published. Defaults to None.
        init_cfg (dict, optional): Defaults to mmdet's for the two predictors
            and Kaiming for the convs before them: at mmdet's std of 0.01 the
            potentials stay below the threshold and no spike gets through.
        **kwargs: stacked_convs, feat_channels, norm_cfg, anchor_generator,
            losses, ... of mmdet's RetinaHead.

    Shape: maps (B, in_channels, H, W) in; per map scores (B, A * classes,
    H, W) and deltas (B, 4A, H, W) out, for A anchors a pixel.

    Raises:
        ValueError: If conv_cfg asks for anything but plain convs.

    Source: RetinaNet (arXiv 1708.02002) with the neurons of QSD-Transformer
    (arXiv 2501.13492).
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 neuron: dict = HEAD_NEURON,
                 weight_bits: int | None = None,
                 init_cfg: dict | None = dict(
                     type='Normal',
                     std=0.01,
                     override=[
                         dict(
                             type='Normal',
                             name='retina_cls',
                             std=0.01,
                             bias_prob=0.01),
                         dict(type='Normal', name='retina_reg', std=0.01)
                     ]),
                 **kwargs) -> None:
        # Read by _init_layers, which the base class calls.
        self.unit = dict(neuron=neuron, weight_bits=weight_bits)
        super().__init__(
            num_classes, in_channels, init_cfg=init_cfg, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        del self.relu  # the base class does not use it either
        for branch in (self.cls_convs, self.reg_convs):
            for i, conv in enumerate(branch):
                branch[i] = to_spike_conv(conv, **self.unit)
        self.retina_cls = to_spike_conv(self.retina_cls, **self.unit)
        self.retina_reg = to_spike_conv(self.retina_reg, **self.unit)
