"""The integer form on the integer kernels of a CPU: PyTorch's oneDNN.

Layers that read spikes multiply uint8 counts with int8 codes. Scale and bias
are part of the kernel, and so is the neuron behind a layer where it alone
reads the result: threshold, clamp and rounding. Layers that read real values
run in float32, with all that can be folded into their weights. Maps are in
the channels_last format. docs/performance.md has what was tried.
"""

from copy import deepcopy
from functools import singledispatch
from math import floor, log2

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import (
    IELIF,
    RepConv,
    SpikingNeuron,
    linear_attention,
)
from ..layers.ie_lif import round_to_count
from ..models.backbones.qsd_transformer import AttentionBlock, ConvBlock
from .fold import FoldedConv, FoldedLayer, FoldedLinear, fold
from .forms import convert, to_integer
from .kernels import (
    FloatConv,
    IntegerConv,
    IntegerLinear,
    find_kernel_obstacle,
)
from .program import Program, WeightLayer
from .spikes import SlotAttention

# Floats become counts by way of int8: PyTorch converts them to uint8 six
# times more slowly. Up to here the int16 sums of two products in processors
# without VNNI cannot overflow either: 2 * 127 * 128 < 2^15.
MAX_LEVELS = 127


def to_fast(model: nn.Module, inputs=None) -> nn.Module:
    """A copy in integer form that runs on the integer kernels of a CPU.

    The function of :func:`to_integer`: sums of codes times counts are exact,
    in int32. The float32 operations behind them come in another order, so
    that a potential within rounding of a threshold may fall to its other
    side. Where the kernels are missing, the copy is the plain integer form,
    and one line of the log says why.

    Args:
        model (nn.Module): As in :func:`to_integer`.
        inputs (optional): As in :func:`to_integer`.

    Returns:
        nn.Module: As in :func:`to_integer`, for the CPU. Save the model it
            was made from.

    Raises:
        ValueError: As in :func:`to_integer`.
    """
    obstacle = find_obstacle(model)
    if obstacle:
        print_log(f'no fast kernels, plain ones instead: {obstacle}',
                  'current')
        return to_integer(model, inputs)
    model = convert(model, 'count', inputs, fold_fast, fuse_neurons)
    model = fuse_all(model, {})
    return model.to(memory_format=torch.channels_last).eval()


def fold_fast(entry: WeightLayer, encoding: str) -> FoldedLayer:
    """The inference form of a layer, on a packed kernel if there is one."""
    for kind, fast in ((nn.Conv2d, FastConv2d), (nn.Linear, FastLinear)):
        if isinstance(entry.layer, kind):
            return fast(entry, encoding)
    return fold(entry, encoding)


def fuse_neurons(program: Program,
                 replaced: dict[nn.Module, nn.Module]) -> None:
    """Let neurons put out bytes, from the layer before them if they can.

    Args:
        program (Program): What reads which neuron.
        replaced (dict): What takes the place of each layer and neuron.
    """
    readers: dict[SpikingNeuron, list[nn.Module]] = {}
    for entry in program.layers.values():
        for neuron in entry.spikes.neurons if entry.spikes else ():
            readers.setdefault(neuron, []).append(replaced[entry.layer])
    products = {getattr(unit, f'{name}_neuron')
                for unit in program.attentions.values() for name in 'qkv'}
    for neuron, layers in readers.items():
        if neuron in program.slotting - products and is_simple(neuron) and all(
                isinstance(x, FastLayer) and x.integer for x in layers):
            replaced[neuron] = FastNeuron(replaced[neuron])
    for entry in program.layers.values():
        layer, neuron = replaced.get(entry.layer), entry.follower
        if isinstance(layer, FastConv2d) and layer.integer and isinstance(
                replaced.get(neuron), FastNeuron):
            replaced[entry.layer] = layer.emitting(replaced[neuron])
            replaced[neuron] = FusedNeuron(replaced[neuron])


def find_obstacle(model: nn.Module) -> str | None:
    """Why a model cannot run on the integer kernels; None if it can."""
    for parameter in model.parameters():
        if parameter.device.type != 'cpu':
            return f'the model is on {parameter.device}, not on the CPU'
        if parameter.dtype != torch.float32:
            return f'the model is in {parameter.dtype}, not in float32'
    return find_kernel_obstacle()


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
        """The kernel that does all the layer does."""
        raise NotImplementedError

    def changed(self, **values) -> 'FastLayer':
        """A copy with other attributes."""
        layer = deepcopy(self)
        for name, value in values.items():
            setattr(layer, name, value)
        return layer

    def emitting(self, neuron: 'FastNeuron') -> 'FastLayer':
        """A copy that puts out the counts of a neuron behind it.

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

    The same counts to the last bit, in three or four passes.

    Args:
        neuron (IELIF): Whose parameters it takes over.
    """

    def __init__(self, neuron: IELIF) -> None:
        super().__init__(
            neuron.levels, neuron.threshold, 1., rounding=neuron.rounding)

    def counts(self, x: Tensor) -> Tensor:
        """The count C for each potential, in the potential's dtype."""
        return round_to_count(x / self.threshold, self.levels,
                              self.rounding == 'half_up')

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.counts(x).to(torch.int8).view(torch.uint8)


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
        """Counts in, the same out."""
        return x


class FastRepConv(nn.Module):
    r"""RepConv without inner neurons, of an integer and two float convs.

    The border is what the first norm makes of zero, that is its bias b. So
    with zeros as the border and without b, the depthwise conv lacks a
    constant, which the last conv adds:

    .. math:: W_2 (d * (W_1 x + b)) = W_2 (d * W_1 x) + W_2 b \\sum d

    Args:
        unit (RepConv): With layers that are :class:`FastConv2d`.

    Shape: (T*B, C, H, W) in, counts, and out.
    """

    def __init__(self, unit: RepConv) -> None:
        super().__init__()
        first, middle, last = (unit.pointwise1, unit.depthwise,
                               unit.pointwise2)
        shift = middle.folded_weight().double().sum((1, 2, 3))
        shift = shift * first.bias + middle.bias
        shift = last.folded_weight().double().flatten(1) @ shift
        self.pointwise1 = first.changed(
            bias=torch.zeros_like(first.bias), padding=(0, 0))
        self.depthwise = middle.changed(
            bias=torch.zeros_like(middle.bias), padding=first.padding)
        self.pointwise2 = last.changed(bias=(last.bias + shift).float())

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.pointwise2(self.depthwise(self.pointwise1(x)))


class FastAttention(nn.Module):
    """:class:`SlotAttention` whose q, k and v are computed side by side.

    Args:
        attention (SlotAttention): With a :class:`FastRepConv` each for q, k
            and v, and simple neurons behind them.

    Shape: (B, C, H, W) in and out.
    """

    def __init__(self, attention: SlotAttention) -> None:
        super().__init__()
        self.neuron = attention.neuron
        convs = [getattr(attention, f'{n}_conv') for n in 'qkv']

        def joined(name: str, **values) -> FastConv2d:
            layers = [getattr(conv, name) for conv in convs]
            for part in ('weight', 'scale', 'bias'):
                values[part] = torch.cat([getattr(x, part) for x in layers])
            return layers[0].changed(**values)

        self.pointwise1 = joined('pointwise1')
        self.depthwise = joined(
            'depthwise', groups=sum(c.depthwise.groups for c in convs))
        last = joined('pointwise2')
        self.register_buffer(
            'weight',
            last.folded_weight().flatten(1).unflatten(
                0, (3, -1)).transpose(1, 2).contiguous())  # (3, C in, C out)
        self.register_buffer('bias', last.bias.view(3, 1, -1))
        self.count = FastNeuron(attention.q_neuron)
        for name in 'qkv':
            neuron = getattr(attention, f'{name}_neuron')
            self.add_module(f'{name}_neuron', FusedNeuron(neuron))
        self.product = attention.product
        self.attn_neuron = attention.attn_neuron
        self.proj_conv = attention.proj_conv

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        b, c, h, w = x.shape
        y = self.depthwise(self.pointwise1(self.neuron(x)))  # (B, 3C, H, W)
        y = y.permute(0, 2, 3, 1).reshape(b * h * w, 3, c).transpose(0, 1)
        with torch.autocast('cpu', enabled=False):
            y = torch.baddbmm(self.bias, y, self.weight)  # (3, B*H*W, C)
        y = self.count.counts(y)
        q, k, v = y.view(3, b, h, w, c).permute(0, 1, 4, 2, 3)
        q, k, v = (x.flatten(2).unflatten(1, (self.product.num_heads, -1))
                   for x in (self.q_neuron(q), self.k_neuron(k),
                             self.v_neuron(v)))  # (B, heads, d, N)
        dtype = self.product.exact_dtype(q)
        y = linear_attention(
            q.to(dtype), k.to(dtype), v.to(dtype), self.product.scale)
        y = y.to(x.dtype).reshape(x.shape)
        return self.proj_conv(self.attn_neuron(y))


class FastConvBlock(nn.Module):
    """:class:`ConvBlock`, its sums in place.

    Shape: (T*B, C, H, W) in and out.
    """

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.sep_conv, self.conv1 = block.sep_conv, block.conv1
        self.conv2 = block.conv2

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.sep_conv(x).add_(x)
        return self.conv2(self.conv1(x)).add_(x)


class FastAttentionBlock(nn.Module):
    """:class:`AttentionBlock`, layer scales folded, its sums in place.

    Shape: (T*B, C, H, W) in and out.
    """

    def __init__(self, block: AttentionBlock) -> None:
        super().__init__()
        self.attn, self.fc1, self.fc2 = block.attn, block.fc1, block.fc2
        for unit, name, gain in ((block.attn.proj_conv, 'pointwise2',
                                  block.layer_scale1),
                                 (block.fc2, 'conv', block.layer_scale2)):
            layer, gain = getattr(unit, name), gain.detach()
            setattr(
                unit, name,
                layer.changed(scale=layer.scale * gain,
                              bias=layer.bias * gain))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.attn(x).add_(x)
        return self.fc2(self.fc1(x)).add_(x)


def is_folded(*norms: nn.Module) -> bool:
    """Whether layers before them have taken over what norms did."""
    return all(isinstance(norm, nn.Identity) for norm in norms)


@singledispatch
def fuse(unit: nn.Module) -> nn.Module:
    """A unit of the integer form with what can be fused in it."""
    return unit


@fuse.register
def _rep_conv(unit: RepConv) -> nn.Module:
    layers = (unit.pointwise1, unit.depthwise, unit.pointwise2)
    if unit.inner_neuron1 is None and is_folded(
            unit.norm_pad, unit.norm) and all(
                isinstance(layer, FastConv2d) for layer in layers):
        return FastRepConv(unit)
    return unit


@fuse.register
def _attention(unit: SlotAttention) -> nn.Module:
    convs = (unit.q_conv, unit.k_conv, unit.v_conv)
    neurons = (unit.q_neuron, unit.k_neuron, unit.v_neuron)
    if all(isinstance(c, FastRepConv) for c in convs) and all(
            is_simple(n) and str(n) == str(neurons[0]) for n in neurons):
        return FastAttention(unit)
    return unit


@fuse.register
def _conv_block(unit: ConvBlock) -> nn.Module:
    return FastConvBlock(unit)


@fuse.register
def _attention_block(unit: AttentionBlock) -> nn.Module:
    last = getattr(unit.attn.proj_conv, 'pointwise2', None)
    if isinstance(unit.attn, (SlotAttention, FastAttention)) and is_folded(
            unit.fc2.norm) and all(isinstance(layer, FastConv2d)
                                   for layer in (last, unit.fc2.conv)):
        return FastAttentionBlock(unit)
    return unit


def fuse_all(module: nn.Module,
             done: dict[nn.Module, nn.Module]) -> nn.Module:
    """:func:`fuse` for every unit of a tree, inner ones first."""
    if module not in done:
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = fuse_all(child, done)
        kind = next(c for c in type(module).__mro__ if c in fuse.registry)
        own = type(module).forward is not kind.forward \
            if kind is not object else True
        done[module] = module if own else fuse(module)
    return done[module]
