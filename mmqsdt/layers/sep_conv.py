"""SepConv: the token mixer of the convolutional stages."""

from torch import Tensor, nn

from .conv_unit import ConvUnit
from .ie_lif import build_neuron
from .lsq import LSQConv2d


class SepConv(nn.Module):
    """Spiking inverted separable convolution.

    neuron -> 1x1 (C -> 2C) -> norm -> neuron -> depthwise 7x7 -> 1x1
    (2C -> C) -> norm. The last 1x1 reads real values.

    Args:
        channels (int): C in and out.
        neuron (dict): Config of the neurons.
        weight_bits (int, optional): See :class:`LSQConv2d`. Defaults to 4.
        time_steps (int): T. Defaults to 1.
        expansion (int): Width of the depthwise conv over C. Defaults to 2.
        kernel_size (int): Of the depthwise conv. Defaults to 7.

    Shape: (T*B, C, H, W) in and out.

    Source: Spike-driven Transformer V2 (arXiv 2404.03663), section 3, after
    MetaFormer baselines (arXiv 2210.13452).
    """

    def __init__(self,
                 channels: int,
                 neuron: dict,
                 weight_bits: int | None = 4,
                 time_steps: int = 1,
                 expansion: int = 2,
                 kernel_size: int = 7) -> None:
        super().__init__()
        width = expansion * channels
        self.expand = ConvUnit(channels, width, 1, neuron, weight_bits,
                               time_steps)
        self.neuron = build_neuron(neuron, time_steps)
        self.depthwise = LSQConv2d(
            width,
            width,
            kernel_size,
            padding=kernel_size // 2,
            groups=width,
            bias=False,
            bits=weight_bits)
        self.project = LSQConv2d(
            width, channels, 1, bias=False, bits=weight_bits)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.neuron(self.expand(x))  # (T*B, 2C, H, W)
        return self.norm(self.project(self.depthwise(x)))
