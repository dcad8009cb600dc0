"""Spiking semantic FPN head, for MMSegmentation."""

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import FPNHead

from ...registry import MODELS
from ..spike_units import HEAD_NEURON, to_spike_conv


@MODELS.register_module()
class SpikeFPNHead(FPNHead):
    """mmseg's FPNHead whose convs read spikes.

    Each scale runs neuron -> 3x3 conv -> norm, then x2 bilinear, until it
    has the size of the first; the scales are summed; neuron -> 1x1 conv
    gives the logits. Losses and resizing are mmseg's. The neurons work at
    T = 1; the same function in training and in evaluation.
    ``neuron=dict(type='ReLU')`` is the ANN counterpart.

    Args:
        feature_strides (Sequence[int]): Strides of the input maps.
        neuron (dict): Config of the neurons. Defaults to IE-LIF with
            threshold 1, amplitude 1/4, rounding half to even, as published.
        weight_bits (int, optional): Bits of the weights; None for float, as
            published. Defaults to None.
        dropout_ratio (float): Of whole channels before the last neuron.
            Defaults to 0, as published.
        **kwargs: in_channels, in_index, channels, num_classes, norm_cfg,
            loss_decode, ... of mmseg's FPNHead.

    Shape: maps (B, in_channels[i], H_i, W_i) in, logits (B, num_classes,
    H_0, W_0) out.

    Raises:
        ValueError: If conv_cfg asks for anything but plain convs.

    Source: Panoptic FPN (arXiv 1901.02446) with the neurons of
    QSD-Transformer (arXiv 2501.13492).
    """

    def __init__(self,
                 feature_strides: list[int],
                 neuron: dict = dict(HEAD_NEURON, amplitude=0.25),
                 weight_bits: int | None = None,
                 dropout_ratio: float = 0.,
                 **kwargs) -> None:
        super().__init__(
            feature_strides, dropout_ratio=dropout_ratio, **kwargs)
        unit = dict(neuron=neuron, weight_bits=weight_bits)
        for scale_head in self.scale_heads:
            for i, layer in enumerate(scale_head):
                if isinstance(layer, ConvModule):
                    scale_head[i] = to_spike_conv(layer, **unit)
        self.conv_seg = to_spike_conv(self.conv_seg, **unit)
