"""Binary spikes: how a count becomes slots, and attention over them."""

import torch
from torch import Tensor, nn

from ..layers import SpikeAttention, SpikingNeuron

# How the spike form carries a count; see slot_weights.
ENCODINGS = ('thermometer', 'bitwise')
# Integers up to here are exact in float32, whatever the order of a sum.
EXACT_FLOAT32 = 2**24


def slot_weights(levels: int, encoding: str) -> tuple[int, ...]:
    r"""Weights of the slots that carry a count: :math:`C = \sum_d w_d b_d`.

    Args:
        levels (int): D, the largest count.
        encoding (str): 'thermometer': D slots of weight 1,
            :math:`b_d = [d < C]`, as published. 'bitwise':
            :math:`\lceil log_2(D + 1) \rceil` slots of weights 1, 2, 4, ...
            'count': one slot, the count itself (the integer form).
    """
    if encoding == 'count':
        return (1, )
    if encoding == 'thermometer':
        return (1, ) * levels
    return tuple(2**i for i in range(levels.bit_length()))


def encode(counts: Tensor, levels: int, encoding: str) -> Tensor:
    """Turn counts to slots, slots outermost.

    Args:
        counts (Tensor): (T*B, ...), integers 0..levels.
        levels (int): D.
        encoding (str): 'thermometer' or 'bitwise'; see
            :func:`slot_weights`.

    Returns:
        Tensor: (slots * T*B, ...) of the same dtype, 0 or 1.
    """
    if encoding == 'thermometer':
        slots = [counts > d for d in range(levels)]
    else:
        slots = [
            counts.div(w, rounding_mode='floor') % 2 == 1
            for w in slot_weights(levels, encoding)
        ]
    return torch.cat(slots).to(counts.dtype)


def split_slots(x: Tensor, slots: int) -> Tensor:
    """(slots * N, ...) -> (slots, N, ...), N = 0 included."""
    return x.reshape(slots, len(x) // slots, *x.shape[1:])


def weighted_sum(x: Tensor, weights: tuple[int, ...], dim: int) -> Tensor:
    """Sum over the slots of a dim, each with its weight (1, or a shift)."""
    total = x.select(dim, 0)
    for slot, weight in enumerate(weights[1:], 1):
        total = torch.add(total, x.select(dim, slot), alpha=weight)
    return total


class SlotNeuron(nn.Module):
    """A neuron that emits its count in binary slots.

    Args:
        neuron (SpikingNeuron): Of amplitude 1, so that it emits counts.
        encoding (str): See :func:`slot_weights`.

    Shape: (T*B, ...) in, (slots * T*B, ...) out.
    """

    def __init__(self, neuron: SpikingNeuron, encoding: str) -> None:
        super().__init__()
        self.neuron = neuron
        self.encoding = encoding

    def forward(self, x: Tensor) -> Tensor:
        return encode(self.neuron(x), self.neuron.levels, self.encoding)

    def extra_repr(self) -> str:
        return f'encoding={self.encoding!r}'


def spiking_neurons(model: nn.Module) -> dict[str, SpikingNeuron]:
    """Return a model's neurons in any form, by their path in the float one."""
    neurons, inside = {}, set()
    for name, module in model.named_modules():
        if isinstance(module, SlotNeuron):
            inside.add(module.neuron)
            neurons[name] = module.neuron
        elif isinstance(module, SpikingNeuron) and module not in inside:
            neurons[name] = module
    return neurons


def integer_counts(neuron: SpikingNeuron, output: Tensor) -> Tensor:
    """Return what a neuron emitted, as counts 0..D."""
    return (output / neuron.amplitude).round()


class SlotProduct(nn.Module):
    r"""scale * q (k^T v) of spikes, exactly.

    The product is trilinear: with counts :math:`q = \sum_i w_i q_i` and so
    on,

    .. math::

        q (k^T v) = \sum_i w_i q_i \Big( \sum_{j,l} w_j w_l k_j^T v_l \Big)

    Every slot of q, k and v enters as it is, 0 or 1: the slots of k and of
    v lie side by side as channels, so one matrix product holds all pairs
    j, l, and those of q lie side by side as tokens. Both products are
    accumulations gated by spikes; only sums and shifts join the slots.

    Args:
        num_heads (int): Heads.
        scale (float): The attention's, times the amplitudes of q, k and v.
        levels (tuple[int]): D of the neurons of q, k and v.
        encoding (str): See :func:`slot_weights`.

    Shape: three (slots * T*B, C, H, W) in, (T*B, C, H, W) out.
    """

    def __init__(self, num_heads: int, scale: float,
                 levels: tuple[int, int, int], encoding: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale
        self.levels = levels
        self.weights = tuple(slot_weights(d, encoding) for d in levels)

    def exact_dtype(self, x: Tensor) -> torch.dtype:
        """Return the float type in which no sum of this input is rounded."""
        d, n = x.shape[-2:]
        bound = self.levels[0] * self.levels[1] * self.levels[2] * d * n
        return torch.float64 if bound >= EXACT_FLOAT32 else torch.float32

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = (len(q) // len(self.weights[0]), *q.shape[1:])
        q, k, v = (
            split_slots(x, len(w)).flatten(3).unflatten(
                2, (self.num_heads, -1))
            for x, w in zip((q, k, v), self.weights)
        )  # (slots, T*B, heads, d, N)
        dtype = torch.promote_types(q.dtype, self.exact_dtype(q))
        q = q.permute(1, 2, 3, 0, 4).flatten(3)  # (T*B, heads, d, slots*N)
        k = k.permute(1, 2, 0, 3, 4).flatten(2, 3)  # (T*B, heads, slots*d, N)
        v = v.permute(1, 2, 0, 3, 4).flatten(2, 3)
        with torch.autocast(q.device.type, enabled=False):
            pairs = v.to(dtype) @ k.to(dtype).transpose(-2, -1)
            pairs = pairs.unflatten(2, (len(self.weights[2]), -1)).unflatten(
                4, (len(self.weights[1]), -1)
            )  # (T*B, heads, slots, d of v, slots, d of k)
            kv = weighted_sum(pairs, self.weights[2], 2)
            kv = weighted_sum(kv, self.weights[1], 3)
            y = kv @ q.to(dtype)
            y = weighted_sum(
                y.unflatten(3, (len(self.weights[0]), -1)), self.weights[0],
                3)  # (T*B, heads, d, N)
            return (y * self.scale).to(q.dtype).reshape(size)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, slot_weights={self.weights}'


class SlotAttention(nn.Module):
    """:class:`SpikeAttention` over neurons that emit slots or counts.

    Its norms are folded into its convs.

    Args:
        attention (SpikeAttention): Whose parts it takes over.
        encoding (str): See :func:`slot_weights`.

    Shape: (T*B, C, H, W) in and out.
    """

    def __init__(self, attention: SpikeAttention, encoding: str) -> None:
        super().__init__()
        self.neuron = attention.neuron
        scale, levels = attention.scale, []
        for name in ('q', 'k', 'v'):
            neuron = getattr(attention, f'{name}_neuron')
            self.add_module(f'{name}_conv', getattr(attention, f'{name}_conv'))
            self.add_module(f'{name}_neuron', neuron)
            scale *= neuron.amplitude
            levels.append(neuron.levels)
        self.product = SlotProduct(attention.num_heads, scale, tuple(levels),
                                   encoding)
        self.attn_neuron = attention.attn_neuron
        self.proj_conv = attention.proj_conv

    def forward(self, x: Tensor) -> Tensor:
        x = self.neuron(x)  # (slots * T*B, C, H, W)
        q = self.q_neuron(self.q_conv(x))
        k = self.k_neuron(self.k_conv(x))
        v = self.v_neuron(self.v_conv(x))
        y = self.product(q, k, v)  # (T*B, C, H, W)
        return self.proj_conv(self.attn_neuron(y))
