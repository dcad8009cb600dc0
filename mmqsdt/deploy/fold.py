"""Weight layers as they run at inference: integer codes, one scale, a bias.

.. math:: y_c = scale_c \\sum_d w_d \\, code_c \\ast b_d + bias_c

with the step size, the amplitude of the neuron that is read, and the batch
norms behind the layer folded into scale and bias, in float64.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..layers import BatchNormPad
from .program import WeightLayer
from .spikes import EXACT_FLOAT32, encode, slot_weights, split_slots

# A spike is off by no more than this once it was rounded to half precision.
NEAR = 0.05


def norm_gain_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return an evaluated batch norm as x * gain + shift, float64.

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
    if entry.bits is None:
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
    if entry.spikes is not None:
        scale = scale * entry.spikes.amplitude
    for norm in entry.norms:
        if isinstance(norm, BatchNormPad):
            norm = norm.bn
        gain, shift = norm_gain_and_shift(norm)
        scale, bias = scale * gain, bias * gain + shift
    return scale, bias


def geometry(entry: WeightLayer) -> dict[str, tuple[int, ...] | int | str]:
    """How a conv goes over a map, its arguments by their names.

    Raises:
        ValueError: If its border is no zeros.
    """
    layer = entry.layer
    if layer.padding_mode != 'zeros':
        raise ValueError('a conv with padding_mode='
                         f'{layer.padding_mode!r} cannot be converted; '
                         "only 'zeros' can")
    found = {name: getattr(layer, name) for name in (
        'stride', 'padding', 'dilation', 'groups')}
    if layer.transposed:
        found['output_padding'] = layer.output_padding
    for norm in entry.norms:
        if isinstance(norm, BatchNormPad):
            # Its border is what the norm makes of zero: no spikes there.
            found['padding'] = (norm.padding, norm.padding)
    return found


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
        levels (int, optional): D of the spikes it reads; None if its input
            is real-valued.
        slot_weights (tuple[int]): See :func:`slot_weights`.
        encoded (bool): Whether its input comes in slots. Else it comes as
            counts, and the layer makes the slots.
        unit (float): What one spike is in such an input.
        norms (int): How many stand-ins of norms have to run behind it.
        due (int): How many of them did not yet.

    Shape: (slots * N, ...) or (N, ...) in, (N, ...) out, of the same dtype.

    Raises:
        RuntimeError: When put into training mode.
    """

    is_folded = True  # asked by who packs weights, and knows no forms
    norms = due = 0

    def __init__(self, entry: WeightLayer, encoding: str) -> None:
        super().__init__()
        layer = entry.layer
        scale, bias = fold_scale_and_bias(entry)
        self.bits = entry.bits
        weight = layer.weight.detach().clone() if self.bits is None \
            else layer.integer_weight()
        # Sums of codes times counts go beyond what half precision can hold.
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)
        self.register_buffer('weight', weight)
        self.register_buffer('scale', scale.to(dtype))
        self.register_buffer('bias', bias.to(dtype))
        self.name, self.source = entry.name, entry.source
        self.levels = None
        self.slot_weights, self.unit, self.encoded = (1, ), 1., True
        self.encoding = encoding
        self.carrier = dtype
        if entry.spikes is not None:
            self.levels = entry.spikes.levels
            self.slot_weights = slot_weights(self.levels, encoding)
            self.unit = entry.unit
            self.encoded = entry.encoded or encoding == 'count'
            if self.bits is not None:
                self.carrier = torch.promote_types(dtype, self.exact_dtype())
        self.input_checked = False

    def largest_sum(self) -> int:
        """Bound of every sum and partial sum of codes times counts."""
        channels = self.weight.abs().double().flatten(1).sum(1)
        return int(channels.max()) * self.levels

    def exact_dtype(self) -> torch.dtype:
        """Return the float type in which no such sum is rounded."""
        return torch.float64 if self.largest_sum() >= EXACT_FLOAT32 \
            else torch.float32

    def operate(self, x: Tensor, weight: Tensor) -> Tensor:
        """Compute the conv or the matrix product, without bias."""
        raise NotImplementedError

    def per_channel(self, x: Tensor) -> Tensor:
        """(C,) to a shape that broadcasts over the output."""
        return x.view(-1, *[1] * (self.weight.dim() - 2))

    def train(self, mode: bool = True) -> 'FoldedLayer':
        if mode:
            raise RuntimeError(
                'the integer and the spike form are for inference; train the '
                'float form they were made from, and convert it again')
        return super().train(mode)

    def check_input(self, x: Tensor, counts: Tensor) -> None:
        """All of it once, then some: what is no spike gives wrong results."""
        largest = self.levels if self.encoding == 'count' \
            or not self.encoded else 1
        if not (((x / self.unit - counts).abs() <= NEAR) & (counts >= 0) &
                (counts <= largest)).all():
            unit = '' if self.unit == 1 else f' times {self.unit:g}'
            raise ValueError(
                f'{self.name or type(self).__name__} read spikes'
                f'{self.source and " of "}{self.source} when the model was '
                f'traced, integers 0..{largest}{unit}, but now gets real '
                'values: its input takes another way; convert the model with '
                'inputs= that take it')
        self.input_checked = x.numel() > 0

    def counts(self, x: Tensor) -> Tensor:
        """Integers of what is read: counts, or slots of them."""
        counts = x.round() if self.unit == 1 and not self.input_checked \
            else x if self.unit == 1 else (x / self.unit).round_()
        if not self.input_checked:
            self.check_input(x, counts)
        elif x.device.type == 'cpu' and x.numel():
            # One column, by its sum: it costs little, but on a GPU a wait.
            middle = len(x) // 2
            few = x[middle, ..., x.shape[-1] // 2] if x.dim() > 2 \
                else x[middle]
            total = float(few.sum(dtype=torch.float64)) / self.unit
            if abs(total - round(total)) > 1e-3:
                self.check_input(x, (x / self.unit).round())
        return counts

    def slots(self, x: Tensor) -> Tensor:
        """Return what is read, (slots, N, ...)."""
        if self.levels is None:
            return x.to(self.carrier).unsqueeze(0)
        counts = self.counts(x)
        if not self.encoded:
            counts = encode(counts, self.levels, self.encoding)
        return split_slots(counts.to(self.carrier), len(self.slot_weights))

    def forward(self, x: Tensor) -> Tensor:
        if x.numel():  # heads leave norms out where there is nothing
            self.due += self.norms
        with torch.autocast(x.device.type, enabled=False):
            slots = self.slots(x)
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


class FoldedNorm(nn.Identity):
    """In place of a norm that is part of a layer before it.

    Args:
        layer (FoldedLayer): That layer.
    """

    def __init__(self, layer: FoldedLayer) -> None:
        super().__init__()
        self.__dict__['layer'] = layer  # it has a place of its own
        layer.norms += 1

    def forward(self, x: Tensor) -> Tensor:
        if x.numel():
            self.layer.due -= 1
        return x


class FoldedConv(FoldedLayer):
    """A conv of one to three axes at inference; see :class:`FoldedLayer`."""

    def __init__(self, entry: WeightLayer, encoding: str) -> None:
        super().__init__(entry, encoding)
        for name, value in geometry(entry).items():
            setattr(self, name, value)

    def operate(self, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`FoldedLayer`."""
        conv = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        return conv(x, weight, None, self.stride, self.padding, self.dilation,
                    self.groups)


class FoldedDeconv(FoldedConv):
    """A transposed conv at inference; see :class:`FoldedLayer`."""

    def operate(self, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`FoldedLayer`."""
        deconv = (F.conv_transpose1d, F.conv_transpose2d,
                  F.conv_transpose3d)[weight.dim() - 3]
        return deconv(x, weight, None, self.stride, self.padding,
                      self.output_padding, self.groups, self.dilation)


class FoldedLinear(FoldedLayer):
    """:class:`LSQLinear` at inference; see :class:`FoldedLayer`."""

    def operate(self, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`FoldedLayer`."""
        return F.linear(x, weight)

    def per_channel(self, x: Tensor) -> Tensor:
        """Features come last."""
        return x


def fold(entry: WeightLayer, encoding: str) -> FoldedLayer:
    """Make the inference form of a layer.

    Raises:
        ValueError: If its kind is not known.
    """
    for kind, folded in ((_ConvTransposeNd, FoldedDeconv),
                         (_ConvNd, FoldedConv), (nn.Linear, FoldedLinear)):
        if isinstance(entry.layer, kind):
            return folded(entry, encoding)
    raise ValueError(f'{type(entry.layer).__name__} has no inference form; '
                     'see mmqsdt.deploy.fold')
