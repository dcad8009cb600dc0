"""Layers and neurons of the fast form; see :mod:`mmqsdt.deploy.fast`."""

from copy import deepcopy
from math import floor, log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import IELIF, SpikingNeuron
from ..layers.ie_lif import round_to_count
from .fold import FoldedConv, FoldedLayer, FoldedLinear
from .kernels import FloatConv, IntegerConv, IntegerLinear

# Floats become counts by way of int8: PyTorch converts them to uint8 six
# times more slowly. Up to here the int16 sums of two products in processors
# without VNNI cannot overflow either: 2 * 127 * 128 < 2^15.
MAX_LEVELS = 127
# Values, 512 KiB, that stay in the cache of a core from pass to pass.
PIECE = 2**17


def is_dense(x: Tensor) -> bool:
    """Whether the values of a tensor fill a stretch of memory."""
    return x.is_contiguous() or x.dim() == 4 and x.is_contiguous(
        memory_format=torch.channels_last)


def in_order(x: Tensor) -> Tensor:
    """View the values of a dense tensor in the order of memory."""
    return (x if x.is_contiguous() else x.permute(0, 2, 3, 1)).view(-1)


class FastLayer(FoldedLayer):
    """A :class:`FoldedLayer` that calls a packed kernel.

    Attributes:
        integer (bool): Whether it multiplies integers.
        emits (int, optional): D of the neuron that is part of the kernel;
            None if the output is real-valued.

    Shape: as of :class:`FoldedLayer`; integer layers read counts, uint8 or
    float32, and put out float32, or uint8 if they emit counts.
    """

    emits: int | None = None
    kernel = None

    @property
    def integer(self) -> bool:
        return self.bits is not None and self.levels is not None and \
            self.levels <= MAX_LEVELS and not isinstance(
                getattr(self, 'padding', None), str)

    def folded_weight(self) -> Tensor:
        """Codes times scale: what a layer of real values multiplies with."""
        scale = self.scale.view(-1, *[1] * (self.weight.dim() - 1))
        return self.weight * scale

    def build_kernel(self) -> IntegerConv | FloatConv | IntegerLinear:
        """Return the kernel that does all the layer does."""
        raise NotImplementedError

    def changed(self, **values) -> 'FastLayer':
        """Copy it with other attributes."""
        layer = deepcopy(self)
        for name, value in values.items():
            setattr(layer, name, value)
        return layer

    def emitting(self, neuron: 'FastNeuron') -> 'FastLayer':
        """Copy it with the neuron behind it fused: it emits counts.

        The kernel rounds half to even. For a neuron that rounds half up the
        bias is raised by the least that lifts every tie: within the float32
        rounding of a potential, and of the bias itself.
        """
        scale = self.scale / neuron.threshold
        bias = self.bias / neuron.threshold
        if neuron.rounding == 'half_up':
            last = torch.finfo(bias.dtype).eps * 2.**floor(
                log2(neuron.levels - 0.5))  # of the highest potential
            bias = torch.maximum(
                bias + last, bias.nextafter(torch.full_like(bias, torch.inf)))
        return self.changed(scale=scale, bias=bias, emits=neuron.levels)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if not len(x):  # a detector may find no regions
            return super().forward(x.float())
        if self.levels is not None and x.dtype != torch.uint8:
            x = self.counts(x)
            if self.integer:
                x = x.to(torch.int8).view(torch.uint8)
        if self.kernel is None:
            self.kernel = self.build_kernel()
        return self.kernel(x)

    def __getstate__(self) -> dict:
        return dict(self.__dict__, kernel=None)  # packed: cannot be copied


class FastConv2d(FastLayer, FoldedConv):
    """:class:`FoldedConv` on packed kernels; see :class:`FastLayer`."""

    def build_kernel(self) -> IntegerConv | FloatConv:
        """See :class:`FastLayer`."""
        geometry = self.stride, self.padding, self.dilation, self.groups
        if self.integer:
            return IntegerConv(self.weight, self.scale, self.bias, *geometry,
                               self.emits)
        return FloatConv(self.folded_weight(), self.bias, *geometry)


class FastLinear(FastLayer, FoldedLinear):
    """:class:`FoldedLinear` on packed kernels; see :class:`FastLayer`."""

    def build_kernel(self) -> IntegerLinear:
        """See :class:`FastLayer`."""
        if self.integer:
            return IntegerLinear(self.weight, self.scale, self.bias)
        weight = self.folded_weight()
        return lambda x: F.linear(x, weight, self.bias)


def is_simple(neuron: nn.Module | None) -> bool:
    """Whether it is an IE-LIF neuron of one time step."""
    return type(neuron) is IELIF and neuron.time_steps == 1 \
        and neuron.levels <= MAX_LEVELS


class FastNeuron(IELIF):
    """:class:`IELIF` of one time step that puts out counts as uint8.

    The same counts to the last bit, in three or four passes, each over a
    piece that the cache holds.

    Args:
        neuron (IELIF): Whose parameters it takes over.
    """

    def __init__(self, neuron: IELIF) -> None:
        super().__init__(
            neuron.levels, neuron.threshold, 1., rounding=neuron.rounding)

    def counts(self, x: Tensor) -> Tensor:
        """Return the count C for each potential, in the potential's dtype."""
        return round_to_count(x / self.threshold, self.levels,
                              self.rounding == 'half_up')

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if x.numel() <= PIECE or torch.compiler.is_compiling() or \
                not is_dense(x):
            return self.counts(x).to(torch.int8).view(torch.uint8)
        out = torch.empty_like(x, dtype=torch.int8)
        for piece, counts in zip(in_order(x).split(PIECE),
                                 in_order(out).split(PIECE)):
            counts.copy_(self.counts(piece))
        return out.view(torch.uint8)


class FusedNeuron(SpikingNeuron):
    """In place of a neuron whose counts come out of what stands before it.

    Args:
        neuron (IELIF): Whose place it takes.
    """

    amplitude = 1.

    def __init__(self, neuron: IELIF) -> None:
        super().__init__()
        self.levels = neuron.levels

    def forward(self, x: Tensor) -> Tensor:
        """Return the counts as they are."""
        return x
