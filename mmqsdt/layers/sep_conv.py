"""SepConv: the token mixer of the convolutional stages."""

from torch import Tensor, nn

from .conv_unit import ConvUnit
from .ie_lif import build_neuron
from .lsq import LSQConv2d


class SepConv(nn.Module):
    """Spiking inverted separable convolution.

    neuron -> 1x1 (C -> 2C) -> norm -> neuron -> depthwise 7x7 -> 1x1
    (2C -> C) -> norm. As published the last 1x1 reads real values. With an
    inner neuron, norm -> neuron stand in front of it, and it reads spikes.

    Args:
        channels (int): C in and out.
        neuron (dict): Config of the neurons.
        weight_bits (int, optional): See :class:`LSQConv2d`. Defaults to 4.
        time_steps (int): T. Defaults to 1.
        expansion (int): Width of the depthwise conv over C. Defaults to 2.
        kernel_size (int): Of the depthwise conv. Defaults to 7.
        inner_neuron (bool): Whether the last 1x1 conv reads spikes.
            Defaults to False, as published.

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
                 kernel_size: int = 7,
                 inner_neuron: bool = False) -> None:
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
        self.inner_norm = self.inner_neuron = None
        if inner_neuron:
            self.inner_norm = nn.BatchNorm2d(width)
            self.inner_neuron = build_neuron(neuron, time_steps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.neuron(self.expand(x)))  # (T*B, 2C, H, W)
        if self.inner_norm is not None:
            x = self.inner_neuron(self.inner_norm(x))
        return self.norm(self.project(x))
