"""The integer form on the integer kernels of a CPU: PyTorch's oneDNN.

Layers that read spikes multiply uint8 counts with int8 codes. Scale and bias
are part of the kernel, and so is the neuron behind a layer where it alone
reads the result: threshold, clamp and rounding. Layers that read real values
run in float32, with all that can be folded into their weights. Maps are in
the channels_last format. docs/performance.md has what was tried.
"""

from functools import singledispatch

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..layers import RepConv, SpikingNeuron, linear_attention
from ..layers.ie_lif import round_to_count
from ..models.backbones.qsd_transformer import AttentionBlock, ConvBlock
from ..models.necks import SpikeFPN
from .fast_heads import NAMED, FastFPN
from .fast_layers import (
    FastConv2d,
    FastLayer,
    FastLinear,
    FastNeuron,
    FusedNeuron,
    is_simple,
)
from .fold import FoldedLayer, fold
from .forms import convert, to_integer
from .kernels import find_kernel_obstacle
from .program import Program, WeightLayer
from .spikes import SlotAttention


def to_fast(model: nn.Module, inputs=None) -> nn.Module:
    """Copy a model in integer form that runs on a CPU's integer kernels.

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
    """Make the inference form of a layer, on a packed kernel if possible."""
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
            and v, and simple neurons behind them that differ in nothing but
            their thresholds.

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
        neurons = [getattr(attention, f'{name}_neuron') for name in 'qkv']
        self.register_buffer('thresholds', torch.tensor(
            [n.threshold for n in neurons]).view(3, 1, 1))
        self.levels = neurons[0].levels
        self.half_up = neurons[0].rounding == 'half_up'
        for name, neuron in zip('qkv', neurons):
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
        y = round_to_count(y / self.thresholds, self.levels, self.half_up)
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
    """Fuse what can be fused in a unit of the integer form."""
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
            is_simple(n) and n.levels == neurons[0].levels
            and n.rounding == neurons[0].rounding for n in neurons):
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


@fuse.register
def _fpn(unit: SpikeFPN) -> nn.Module:
    return FastFPN(unit)


def fuse_all(module: nn.Module,
             done: dict[nn.Module, nn.Module]) -> nn.Module:
    """:func:`fuse` for every unit of a tree, inner ones first."""
    if module not in done:
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = fuse_all(child, done)
        done[module] = fused(module)
    return done[module]


def fused(module: nn.Module) -> nn.Module:
    """Return what replaces a module; itself if its forward is its own."""
    for kind in type(module).__mro__:
        name = f'{kind.__module__}.{kind.__qualname__}'
        change = NAMED.get(name) or kind in fuse.registry and fuse
        if kind is object or change:
            break
    if kind is object or type(module).forward is not kind.forward:
        return module
    return change(module)
