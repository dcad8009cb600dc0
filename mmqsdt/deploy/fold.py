"""Weight layers as they run at inference: integer codes, one scale, a bias.

.. math:: y_c = scale_c \\sum_d w_d \\, code_c \\ast b_d + bias_c

with the step size, the amplitude of the neuron that is read, and the batch
norms behind the layer folded into scale and bias, in float64.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import BatchNormPad
from .spikes import EXACT_FLOAT32, slot_weights, split_slots
from .structure import WeightLayer


def norm_gain_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """An evaluated batch norm as x * gain + shift, float64.

    Raises:
        ValueError: If it keeps no running statistics.
    """
    if norm.running_mean is None:
        raise ValueError('a batch norm without running statistics depends on '
                         'the batch and cannot be folded; build it with '
                         'track_running_stats=True')
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        gain = gain * norm.weight.detach().double()
    shift = -norm.running_mean.double() * gain
    if norm.affine:
        shift = shift + norm.bias.detach().double()
    return gain, shift


def fold_scale_and_bias(entry: WeightLayer) -> tuple[Tensor, Tensor]:
    """Scale and bias of a layer, (out_channels,) each, float64."""
    layer = entry.layer
    if layer.bits is None:
        scale = torch.ones(
            output_channels(layer),
            dtype=torch.float64,
            device=layer.weight.device)
    else:
        layer.settle_step_size()
        scale = layer.positive_step_size().detach().double()
    bias = torch.zeros_like(scale)
    if layer.bias is not None:
        bias = bias + layer.bias.detach().double()
    if entry.neuron is not None:
        scale = scale * entry.neuron.amplitude
    for norm in entry.norms:
        if isinstance(norm, BatchNormPad):
            norm = norm.bn
        gain, shift = norm_gain_and_shift(norm)
        scale, bias = scale * gain, bias * gain + shift
    return scale, bias


def output_channels(layer: nn.Module) -> int:
    """Channels or features a layer writes."""
    return getattr(layer, 'out_channels', None) or layer.out_features


class FoldedLayer(nn.Module):
    """Base of the layers in integer and spike form.

    Args:
        entry (WeightLayer): The trained layer and its surroundings.
        encoding (str): How the spikes it reads are encoded; see
            :func:`slot_weights`.

    Attributes:
        weight (Tensor): Codes, int8; the weights themselves if the layer
            has none (bits=None).
        scale, bias (Tensor): (out_channels,), float32 or the weight's dtype
            if that is wider.
        bits (int, optional): Of the weight.
        levels (int, optional): D of the neuron it reads; None if its input
            is real-valued.
        slot_weights (tuple[int]): See :func:`slot_weights`.

    Shape: (slots * N, ...) in, (N, ...) out, of the same dtype.

    Raises:
        RuntimeError: When put into training mode.
    """

    is_folded = True  # asked by who packs weights, and knows no forms

    def __init__(self, entry: WeightLayer, encoding: str) -> None:
        super().__init__()
        layer = entry.layer
        scale, bias = fold_scale_and_bias(entry)
        self.bits = layer.bits
        weight = layer.weight.detach().clone() if layer.bits is None \
            else layer.integer_weight()
        # Sums of codes times counts go beyond what half precision can hold.
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        self.register_buffer('weight', weight)
        self.register_buffer('scale', scale.to(dtype))
        self.register_buffer('bias', bias.to(dtype))
        self.levels = self.input_values = None
        self.slot_weights = (1, )
        self.carrier = dtype
        if entry.neuron is not None:
            self.levels = entry.neuron.levels
            self.slot_weights = slot_weights(self.levels, encoding)
            self.input_values = self.levels if encoding == 'count' else 1
            if self.bits is not None:
                self.carrier = torch.promote_types(dtype, self.exact_dtype())
        self.input_checked = False

    def largest_sum(self) -> int:
        """Bound of every sum and partial sum of codes times counts."""
        channels = self.weight.abs().double().flatten(1).sum(1)
        return int(channels.max()) * self.levels

    def exact_dtype(self) -> torch.dtype:
        """The float type in which no such sum can be rounded."""
        return torch.float64 if self.largest_sum() >= EXACT_FLOAT32 \
            else torch.float32

    def operate(self, x: Tensor, weight: Tensor) -> Tensor:
        """The conv or the matrix product, without bias."""
        raise NotImplementedError

    def per_channel(self, x: Tensor) -> Tensor:
        """(C,) to a shape that broadcasts over the output."""
        return x.view(-1, 1, 1)

    def train(self, mode: bool = True) -> 'FoldedLayer':
        if mode:
            raise RuntimeError(
                'the integer and the spike form are for inference; train the '
                'float form they were made from, and convert it again')
        return super().train(mode)

    def check_input(self, x: Tensor) -> None:
        """Once: an input that is no spike would give wrong results."""
        if not ((x == x.round()) & (x >= 0) &
                (x <= self.input_values)).all():
            raise ValueError(
                f'a {type(self).__name__} was converted to read spikes, '
                f'integers 0..{self.input_values}, but got real values: the '
                'unit it stands in does not run in the order that '
                'mmqsdt.deploy.structure knows')
        self.input_checked = x.numel() > 0

    def forward(self, x: Tensor) -> Tensor:
        if self.levels is not None and not self.input_checked:
            self.check_input(x)
        with torch.autocast(x.device.type, enabled=False):
            slots = split_slots(
                x.to(self.carrier), len(self.slot_weights))  # (slots, N, ...)
            weight = self.weight.to(self.carrier)
            out = self.operate(slots[0], weight)
            for slot, slot_weight in zip(slots[1:], self.slot_weights[1:]):
                out = out.add_(self.operate(slot, weight), alpha=slot_weight)
            if self.levels is not None and self.bits is not None:
                # A kernel that transforms (Winograd) may be a hair off.
                out = out.round_()
            out = out.to(self.scale.dtype) * self.per_channel(self.scale)
            return (out + self.per_channel(self.bias)).to(x.dtype)

    def extra_repr(self) -> str:
        return (f'{tuple(self.weight.shape)}, bits={self.bits}, '
                f'levels={self.levels}, slot_weights={self.slot_weights}')


class FoldedConv2d(FoldedLayer):
    """:class:`LSQConv2d` at inference; see :class:`FoldedLayer`."""

    def __init__(self, entry: WeightLayer, encoding: str) -> None:
        super().__init__(entry, encoding)
        layer = entry.layer
        if layer.padding_mode != 'zeros':
            raise ValueError('a conv with padding_mode='
                             f'{layer.padding_mode!r} cannot be converted; '
                             "only 'zeros' can")
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups
        for norm in entry.norms:
            if isinstance(norm, BatchNormPad):
                # Its border is what the norm makes of zero: no spikes there.
                self.padding = (norm.padding, norm.padding)

    def operate(self, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`FoldedLayer`."""
        return F.conv2d(x, weight, None, self.stride, self.padding,
                        self.dilation, self.groups)


class FoldedLinear(FoldedLayer):
    """:class:`LSQLinear` at inference; see :class:`FoldedLayer`."""

    def operate(self, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`FoldedLayer`."""
        return F.linear(x, weight)

    def per_channel(self, x: Tensor) -> Tensor:
        """Features come last."""
        return x


def fold(entry: WeightLayer, encoding: str) -> FoldedLayer:
    """The inference form of a layer.

    Raises:
        ValueError: If its kind is not known.
    """
    for kind, folded in ((nn.Conv2d, FoldedConv2d), (nn.Linear,
                                                     FoldedLinear)):
        if isinstance(entry.layer, kind):
            return folded(entry, encoding)
    raise ValueError(f'{type(entry.layer).__name__} has no inference form; '
                     'see mmqsdt.deploy.fold')
