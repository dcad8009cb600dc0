"""The unit the network is made of: neuron -> LSQ conv -> batch norm."""

from torch import Tensor, nn

from .ie_lif import build_neuron
from .lsq import LSQConv2d


class ConvUnit(nn.Module):
    """Neuron, quantized convolution, batch norm.

    Args:
        in_channels (int): Channels read.
        out_channels (int): Channels written.
        kernel_size (int): Side of the kernel; padding keeps the size.
        neuron (dict, optional): Config of the neuron; None reads the input
            as it is (the stem, which sees the image).
        weight_bits (int, optional): See :class:`LSQConv2d`. Defaults to 4.
        time_steps (int): T. Defaults to 1.
        stride (int): Defaults to 1.
        bias (bool): Whether the conv has a bias. Defaults to False.

    Shape: (T*B, C_in, H, W) in, (T*B, C_out, H', W') out, real-valued.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 kernel_size: int,
                 neuron: dict | None,
                 weight_bits: int | None = 4,
                 time_steps: int = 1,
                 stride: int = 1,
                 bias: bool = False) -> None:
        super().__init__()
        self.neuron = build_neuron(neuron, time_steps) if neuron else None
        self.conv = LSQConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=bias,
            bits=weight_bits)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.neuron is not None:
            x = self.neuron(x)
        x = self.conv(x)
        if isinstance(x, Tensor) and not len(x):
            # No region: not every norm takes that. Its parameters still get
            # a gradient, of zero, for which several processes wait.
            return x + sum(0 * p.sum() for p in self.norm.parameters())
        return self.norm(x)
