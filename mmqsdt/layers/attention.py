"""Q-SDSA: quantized spike-driven self-attention."""

import torch
from torch import Tensor, nn

from ..registry import MODELS
from .ie_lif import DEFAULT_NEURON, IELIF, build_neuron
from .rep_conv import RepConv


def linear_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Compute scale * q (k^T v), with a cost linear in the tokens N.

    Linear, because k^T v is formed first. Sums run in float32 even under
    autocast: sums of spikes are exact in it.

    Args:
        q, k, v (Tensor): (B, heads, d, N), tokens last.
        scale (float): Factor of the result.

    Returns:
        Tensor: (B, heads, d, N).
    """
    # On the meta device, where only shapes are computed, is no autocast.
    device = 'cpu' if q.is_meta else q.device.type
    with torch.autocast(device, enabled=False):
        if q.dtype in (torch.float16, torch.bfloat16):
            q, k, v = q.float(), k.float(), v.float()
        kv = v @ k.transpose(-2, -1)  # (B, heads, d, N) -> (B, heads, d, d)
        return kv @ q * scale  # (B, heads, d, N)


def attention_neuron(neuron: dict) -> dict:
    """Make the config of the neuron behind attention from the others'.

    As published, an IE-LIF of fixed amplitude has twice the amplitude there.
    """
    kind = neuron.get('type', DEFAULT_NEURON)
    if isinstance(kind, str):
        kind = MODELS.get(kind)
    if not (isinstance(kind, type) and issubclass(kind, IELIF)):
        return neuron
    learned = neuron.get('threshold') == 'learned'
    amplitude = neuron.get('amplitude', None if learned else 0.25)
    if amplitude is None:
        return neuron
    return dict(neuron, amplitude=2 * amplitude)


class SpikeAttention(nn.Module):
    r"""Quantized spike-driven self-attention, without softmax.

    .. math::

        q, k, v &= neuron(BN(RepConv(neuron(x)))) \\
        y &= scale \cdot q (k^T v) \quad \text{for each head} \\
        out &= BN(RepConv(neuron(y)))

    The neuron behind attention reads sums over N tokens. A learned threshold
    adapts to them; a neuron of fixed amplitude has twice that of the others
    there, as published.

    Args:
        channels (int): C = heads * d; head h has channels h*d to h*d + d-1.
        num_heads (int): Heads. Defaults to 8.
        neuron (dict): Config of the neurons.
        weight_bits (int, optional): See :class:`LSQConv2d`. Defaults to 4.
        time_steps (int): T. Defaults to 1.
        scale (float): Constant, independent of d and N. Defaults to 0.25.
        inner_neurons (bool): Whether every conv inside the RepConvs reads
            spikes. Defaults to False, as published.

    Shape: (T*B, C, H, W) in and out.

    Raises:
        ValueError: If the heads do not divide the channels.

    Source: QSD-Transformer (arXiv 2501.13492), Q-SDSA.
    """

    def __init__(self,
                 channels: int,
                 num_heads: int = 8,
                 neuron: dict = dict(type='mmqsdt.IELIF'),
                 weight_bits: int | None = 4,
                 time_steps: int = 1,
                 scale: float = 0.25,
                 inner_neurons: bool = False) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f'{channels} channels do not split into '
                             f'{num_heads} heads')

        def rep_conv() -> RepConv:
            return RepConv(
                channels,
                weight_bits=weight_bits,
                inner_neuron=neuron if inner_neurons else None,
                time_steps=time_steps)

        def branch() -> tuple[nn.Module, nn.Module, nn.Module]:
            return (rep_conv(), nn.BatchNorm2d(channels),
                    build_neuron(neuron, time_steps))

        self.num_heads = num_heads
        self.scale = scale
        self.neuron = build_neuron(neuron, time_steps)
        self.q_conv, self.q_norm, self.q_neuron = branch()
        self.k_conv, self.k_norm, self.k_neuron = branch()
        self.v_conv, self.v_norm, self.v_neuron = branch()
        self.attn_neuron = build_neuron(attention_neuron(neuron), time_steps)
        self.proj_conv = rep_conv()
        self.proj_norm = nn.BatchNorm2d(channels)

    def split_heads(self, x: Tensor) -> Tensor:
        """Split heads: (T*B, C, H, W) -> (T*B, heads, d, N)."""
        return x.flatten(2).unflatten(1, (self.num_heads, -1))

    def forward(self, x: Tensor) -> Tensor:
        # Read before the neuron: in the spike form its output has more rows.
        size = x.shape  # (T*B, C, H, W)
        x = self.neuron(x)  # (T*B, C, H, W), real values to spikes
        q = self.q_neuron(self.q_norm(self.q_conv(x)))  # (T*B, C, H, W)
        k = self.k_neuron(self.k_norm(self.k_conv(x)))  # (T*B, C, H, W)
        v = self.v_neuron(self.v_norm(self.v_conv(x)))  # (T*B, C, H, W)
        y = linear_attention(
            self.split_heads(q), self.split_heads(k), self.split_heads(v),
            self.scale)  # (T*B, heads, d, N)
        y = y.reshape(size)  # (T*B, C, H, W)
        if x.is_contiguous(memory_format=torch.channels_last):
            y = y.contiguous(memory_format=torch.channels_last)
        # Half precision holds the counts, but not the sums they are made of.
        y = self.attn_neuron(y).to(q.dtype)
        return self.proj_norm(self.proj_conv(y))  # (T*B, C, H, W), real
