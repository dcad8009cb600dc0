"""Spiking region proposal head, for MMDetection."""

from mmdet.models.dense_heads import RPNHead
from torch import Tensor, nn

from ...registry import MODELS
from ..spike_units import HEAD_NEURON, SpikeConv


@MODELS.register_module()
class SpikeRPNHead(RPNHead):
    """mmdet's RPNHead whose convs read spikes.

    num_convs x [neuron -> 3x3 conv], then neuron -> 1x1 conv for scores and
    for deltas. Anchors, losses and post-processing are mmdet's. The neurons
    work at T = 1; the same function in training and in evaluation.

    Args:
        in_channels (int): Channels of the input maps.
        neuron (dict): Config of the neurons; ``dict(type='ReLU')`` gives
            mmdet's own head behind a ReLU. Defaults to IE-LIF with threshold
            and amplitude 1, rounding half to even, as published.
        weight_bits (int, optional): Bits of the weights; None for float, as
            published. Defaults to None.
        init_cfg (dict, optional): Defaults to mmdet's for the two predictors
            and Kaiming for the convs before them: at mmdet's std of 0.01 the
            potentials stay below the threshold and no spike gets through.
        **kwargs: num_convs, feat_channels, anchor_generator, bbox_coder,
            losses, ... of mmdet's RPNHead.

    Shape: maps (B, in_channels, H, W) in; per map scores (B, A, H, W) and
    deltas (B, 4A, H, W) out, for A anchors a pixel.

    Source: RPN (arXiv 1506.01497) with the neurons of QSD-Transformer
    (arXiv 2501.13492).
    """

    def __init__(self,
                 in_channels: int,
                 neuron: dict = HEAD_NEURON,
                 weight_bits: int | None = None,
                 init_cfg: dict | None = dict(
                     type='Normal',
                     std=0.01,
                     override=[dict(name='rpn_cls'),
                               dict(name='rpn_reg')]),
                 **kwargs) -> None:
        # Read by _init_layers, which the base class calls.
        self.unit = dict(neuron=neuron, weight_bits=weight_bits)
        super().__init__(in_channels, init_cfg=init_cfg, **kwargs)

    def _init_layers(self) -> None:
        self.rpn_conv = nn.Sequential(*[
            SpikeConv(self.feat_channels if i else self.in_channels,
                      self.feat_channels, 3, **self.unit)
            for i in range(self.num_convs)
        ])
        anchors = self.num_base_priors
        self.rpn_cls = SpikeConv(self.feat_channels,
                                 anchors * self.cls_out_channels, 1,
                                 **self.unit)
        self.rpn_reg = SpikeConv(self.feat_channels,
                                 anchors * self.bbox_coder.encode_size, 1,
                                 **self.unit)

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scores and deltas of one map."""
        x = self.rpn_conv(x)
        return self.rpn_cls(x), self.rpn_reg(x)
