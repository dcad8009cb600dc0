"""Spiking mask head, for MMDetection."""

from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from torch import nn

from ...registry import MODELS
from ..spike_units import HEAD_NEURON, PixelShuffle, SpikeConv, to_spike_conv


@MODELS.register_module()
class SpikeFCNMaskHead(FCNMaskHead):
    r"""mmdet's FCNMaskHead whose convs read spikes.

    num_convs x [neuron -> 3x3 conv -> norm], upsampling, neuron -> 1x1 conv
    for the logits. Targets, losses and pasting are mmdet's. The neurons work
    at T = 1; the same function in training and in evaluation.

    The deconvolution, whose kernel size s equals its stride, is computed as
    neuron -> 1x1 conv to s * s * C channels -> pixel shuffle. That is the
    same linear map, and its weights are quantized and folded as in any conv:

    .. math:: y_{c, s i + a, s j + b} = \sum_k w_{(c, a, b), k} x_{k, i, j}

    Args:
        neuron (dict): Config of the neurons; ``dict(type='ReLU')`` gives
            mmdet's own head behind a ReLU. Defaults to IE-LIF with threshold
            and amplitude 1, rounding half to even, as published.
        weight_bits (int, optional): Bits of the weights; None for float, as
            published. Defaults to None.
        **kwargs: num_convs, in_channels, conv_out_channels, num_classes,
            upsample_cfg, loss_mask, ... of mmdet's FCNMaskHead.

    Shape: (R, C, h, w) in, (R, classes, s * h, s * w) out, for R regions.

    Raises:
        ValueError: If conv_cfg or predictor_cfg asks for anything but plain
            convs, or upsample_cfg for 'carafe'.

    Source: Mask R-CNN (arXiv 1703.06870) with the neurons of QSD-Transformer
    (arXiv 2501.13492).
    """

    def __init__(self,
                 neuron: dict = HEAD_NEURON,
                 weight_bits: int | None = None,
                 **kwargs) -> None:
        super().__init__(**kwargs)
        unit = dict(neuron=neuron, weight_bits=weight_bits)
        if self.upsample_method == 'carafe':
            raise ValueError("upsample_cfg type 'carafe' does not spike; use "
                             "'deconv', 'nearest', 'bilinear' or None")
        for i, conv in enumerate(self.convs):
            self.convs[i] = to_spike_conv(conv, **unit)
        if self.upsample_method == 'deconv':
            self.upsample = nn.Sequential(
                SpikeConv(self.upsample.in_channels,
                          self.upsample.out_channels * self.scale_factor**2,
                          1, **unit), PixelShuffle(self.scale_factor))
        self.conv_logits = to_spike_conv(self.conv_logits, **unit)
        # The base class applies it behind the deconv; neurons take its place.
        self.relu = nn.Identity()
