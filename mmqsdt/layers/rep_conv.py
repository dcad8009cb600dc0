"""RepConv: a factored 3x3 convolution that could be merged into one."""

import torch
from torch import Tensor, nn

from .ie_lif import build_neuron
from .lsq import LSQConv2d


class BatchNormPad(nn.Module):
    r"""Batch norm, then a border of what it would output for zero input.

    .. math:: pad = \beta - \mu \gamma / \sqrt{\sigma^2 + \epsilon}

    with the running statistics, no gradient through the border. So a 3x3
    conv without padding behind it equals one with zero padding before it.

    Args:
        channels (int): C.
        padding (int): Pixels added on each side. Defaults to 1.

    Shape: (N, C, H, W) in, (N, C, H + 2 padding, W + 2 padding) out.

    Source: RepConv of Spike-driven Transformer V2 (arXiv 2404.03663), after
    the diverse branch block (arXiv 2103.13425).
    """

    def __init__(self, channels: int, padding: int = 1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.padding = padding

    @torch.no_grad()
    def border_value(self) -> Tensor:
        """Return what the norm gives for zero input, (C,)."""
        bn = self.bn
        return bn.bias - bn.running_mean * bn.weight / torch.sqrt(
            bn.running_var + bn.eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        p = self.padding
        n, c, h, w = x.shape
        # Read after the norm: this batch's update of the statistics counts.
        border = self.border_value().to(x.dtype).view(1, c, 1, 1)
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        out = torch.empty(
            (n, c, h + 2 * p, w + 2 * p),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last
            if channels_last else torch.contiguous_format)
        out.copy_(border.expand_as(out))
        out[:, :, p:p + h, p:p + w] = x
        return out


class RepConv(nn.Module):
    """1x1 conv, batch norm with border, depthwise 3x3, 1x1, batch norm.

    As published only its input can be spikes: the depthwise and the second
    1x1 conv read real values. With inner neurons they read spikes too; the
    depthwise conv then has a norm, so that its neuron sees potentials of
    its range, and the three convs can no longer be merged into one.

    Args:
        channels (int): C in and out.
        weight_bits (int, optional): See :class:`LSQConv2d`. Defaults to 4.
        inner_neuron (dict, optional): Config of the neurons in front of the
            depthwise and the second 1x1 conv; None for none, as published.
            Defaults to None.
        time_steps (int): T, of the inner neurons. Defaults to 1.

    Shape: (T*B, C, H, W) in and out.

    Source: Spike-driven Transformer V2 (arXiv 2404.03663), section 3.
    """

    def __init__(self,
                 channels: int,
                 weight_bits: int | None = 4,
                 inner_neuron: dict | None = None,
                 time_steps: int = 1) -> None:
        super().__init__()

        def conv(kernel_size: int, groups: int) -> LSQConv2d:
            return LSQConv2d(
                channels,
                channels,
                kernel_size,
                groups=groups,
                bias=False,
                bits=weight_bits)

        self.pointwise1 = conv(1, 1)
        self.norm_pad = BatchNormPad(channels)
        self.depthwise = conv(3, channels)
        self.pointwise2 = conv(1, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.inner_neuron1 = self.inner_norm = self.inner_neuron2 = None
        if inner_neuron is not None:
            self.inner_neuron1 = build_neuron(inner_neuron, time_steps)
            self.inner_norm = nn.BatchNorm2d(channels)
            self.inner_neuron2 = build_neuron(inner_neuron, time_steps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_pad(self.pointwise1(x))  # (T*B, C, H + 2, W + 2)
        if self.inner_norm is None:
            x = self.depthwise(x)
        else:
            x = self.depthwise(self.inner_neuron1(x))
            x = self.inner_neuron2(self.inner_norm(x))
        return self.norm(self.pointwise2(x))
