"""Units of necks and heads: a neuron, then a layer that reads it."""

from mmcv.cnn import Conv2d, ConvModule, build_norm_layer
from mmengine.model import kaiming_init
from torch import Tensor, nn

from ..layers import ConvUnit, LSQLinear, build_neuron
from ..registry import MODELS

# The neuron of the published detection necks and heads. Those for segmentation
# have an amplitude of 0.25.
HEAD_NEURON = dict(
    type='mmqsdt.IELIF', threshold=1., amplitude=1., rounding='half_even')


class SpikeConv(ConvUnit):
    """Neuron, convolution, norm if one is configured.

    A :class:`ConvUnit` as necks and heads need it: initialized like mmcv's
    ConvModule, with any norm or with none (then the conv has a bias).

    Args:
        in_channels (int): Channels read.
        out_channels (int): Channels written.
        kernel_size (int): Side of the kernel; padding keeps the size.
        neuron (dict): Config of the neuron.
        weight_bits (int, optional): Bits of the weight; None for float.
            Defaults to None.
        norm_cfg (dict, optional): Config of the norm. Defaults to None.
        stride (int): Defaults to 1.

    Shape: (B, C_in, H, W) in, (B, C_out, H', W') out, real-valued.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 kernel_size: int,
                 neuron: dict,
                 weight_bits: int | None = None,
                 norm_cfg: dict | None = None,
                 stride: int = 1) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            neuron,
            weight_bits,
            stride=stride,
            bias=norm_cfg is None)
        self.norm = nn.Identity() if norm_cfg is None \
            else build_norm_layer(norm_cfg, out_channels)[1]
        kaiming_init(self.conv)


@MODELS.register_module()
class SpikeLinear(nn.Module):
    """Neuron, then a linear layer.

    Args:
        in_features (int): Features read.
        out_features (int): Features written.
        neuron (dict): Config of the neuron.
        weight_bits (int, optional): Bits of the weight; None for float.
            Defaults to None.

    Shape: (B, in_features) in, (B, out_features) out, real-valued.
    """

    def __init__(self,
                 in_features: int,
                 out_features: int,
                 neuron: dict = HEAD_NEURON,
                 weight_bits: int | None = None) -> None:
        super().__init__()
        self.neuron = build_neuron(neuron)
        self.fc = LSQLinear(in_features, out_features, bits=weight_bits)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.fc(self.neuron(x))


class PixelShuffle(nn.PixelShuffle):
    """``nn.PixelShuffle`` that also takes an empty batch.

    PyTorch's own fails in the backward pass of an empty batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if len(x):
            return super().forward(x)
        channels, height, width = x.shape[1:]
        s = self.upscale_factor
        return x.reshape(0, channels // s**2, s * height, s * width)


def to_spike_conv(layer: nn.Module, neuron: dict,
                  weight_bits: int | None) -> SpikeConv:
    """Make the spiking unit that replaces a stock conv.

    conv -> norm -> activation becomes neuron -> conv -> norm. In a chain the
    order of layers is the same, but cut so that every conv reads spikes.

    Args:
        layer (nn.Module): A Conv2d, or a ConvModule around one.
        neuron (dict): Config of the neuron.
        weight_bits (int, optional): Bits of the weight; None for float.

    Raises:
        ValueError: If it is anything but a plain, dense 2-D conv.
    """
    norm_cfg = None
    if isinstance(layer, ConvModule):
        layer, norm_cfg = layer.conv, layer.norm_cfg
    plain = type(layer) in (nn.Conv2d, Conv2d) and layer.groups == 1 and all(
        (pad, dilation) == (kernel // 2, 1) for pad, kernel, dilation in zip(
            layer.padding, layer.kernel_size, layer.dilation))
    if not plain:
        raise ValueError('expected a plain conv for a spiking neck or head, '
                         f'got {layer}; leave conv_cfg and predictor_cfg '
                         'out, weight_bits chooses the convs')
    return SpikeConv(layer.in_channels, layer.out_channels,
                     layer.kernel_size[0], neuron, weight_bits, norm_cfg,
                     layer.stride[0])
