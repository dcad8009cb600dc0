"""What is known of modules: those whose forward is replaced.

Told by the class. All others, such as blocks, necks and heads, run their own
forward on :class:`Value`, which ends here. A new kind of layer becomes known
with one more ``@translate.register``.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial, singledispatch

import numpy as np
from mmcv.cnn.bricks import DropPath
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...layers import (
    IELIF,
    BatchNormPad,
    LSQWeight,
    RepConv,
    SpikeAttention,
    SpikingNeuron,
)
from ..fold import norm_gain_and_shift
from ..spikes import EXACT_FLOAT32
from .graph import Graph, Size, Value, max_pool, resize, unsupported
from .layers import (
    Counts,
    IntegerLayer,
    Layer,
    Weights,
    write_float_neuron,
    write_neuron,
)

# Two products of a count and a code are summed in 16 bits by processors
# without VNNI: 2 * 127 * 128 < 2^15.
MAX_LEVELS = 127


class Writer:
    """Writes modules into a graph, in one form.

    Args:
        graph (Graph): Where to.
        form (str): 'integer' or 'float'.
        size (tuple[int, int]): Of the largest image, height and width.

    Attributes:
        counts (dict[str, list[Value]]): What each neuron emitted at each of
            its calls, by its path.
    """

    def __init__(self, graph: Graph, form: str,
                 size: tuple[int, int]) -> None:
        self.graph = graph
        self.integer = form == 'integer'
        self.size = size
        self.counts: dict[str, list[Value]] = {}

    def prepared(self, model: nn.Module) -> nn.Module:
        """A copy that writes nodes when it is given a :class:`Value`."""
        model = deepcopy(model).eval()
        for path, module in model.named_modules():
            write = translate(module)
            if write is not None:
                module.forward = partial(self.write, write, path, module)
        return model

    def write(self, write: Callable, path: str, module: nn.Module,
              x: Value) -> Value:
        """One module, its path in the names of its nodes."""
        outer, self.graph.scope = self.graph.scope, path
        y = write(module, self, x)
        self.graph.scope = outer
        return y

    def layer(self, source: Value, weights: Weights) -> Layer:
        """A layer of this form."""
        return (IntegerLayer if self.integer else Layer)(source, weights)


@singledispatch
def translate(module: nn.Module) -> Callable | None:
    """A function (module, writer, x) for modules of a class, if known."""
    containers = nn.Sequential, nn.ModuleList, nn.ModuleDict
    if type(module).__module__.startswith('torch.nn') \
            and not isinstance(module, containers):
        return _unknown
    return None


def _unknown(module: nn.Module, writer: Writer, x: Value):
    raise unsupported(f'a {type(module).__name__} of PyTorch')


@translate.register(nn.Identity)
@translate.register(nn.Dropout)
@translate.register(nn.Dropout2d)
@translate.register(DropPath)
def _identity(_) -> Callable:
    return lambda module, writer, x: x


@translate.register(nn.ReLU)
def _relu(_) -> Callable:
    return lambda module, writer, x: x.apply('Relu')


@translate.register(nn.PixelShuffle)
def _pixel_shuffle(_) -> Callable:

    def write(module: nn.PixelShuffle, writer: Writer, x: Value) -> Value:
        x, factor = x.real(), module.upscale_factor
        name = writer.graph.node(
            'DepthToSpace', x.first_name(), blocksize=factor, mode='CRD')
        return x.like(name, channels=x.channels // factor**2, last=False)

    return write


@translate.register(nn.MaxPool2d)
def _max_pool(_) -> Callable:
    return lambda module, writer, x: max_pool(
        x, module.kernel_size, module.stride, module.padding,
        module.dilation, module.ceil_mode, module.return_indices)


@translate.register(nn.AdaptiveAvgPool2d)
def _pool(_) -> Callable:

    def write(module: nn.AdaptiveAvgPool2d, writer: Writer,
              x: Value) -> Value:
        if module.output_size not in (1, (1, 1)):
            raise unsupported('adaptive pooling to more than one pixel '
                              f'({module.output_size})')
        x = x.real()
        name = writer.graph.node('GlobalAveragePool', x.first_name())
        return x.like(name, last=False)

    return write


def upsample(module: nn.Module, writer: Writer, x: Value) -> Value:
    """Upsampling by a whole factor, as MMSegmentation's wrapper does it."""
    factor = module.scale_factor
    if module.size or factor is None or factor != int(factor):
        raise unsupported('upsampling by other than whole factors')
    size = Size(x, int(factor))
    return resize(x, size, None, module.mode, module.align_corners)


@translate.register(nn.Upsample)
def _upsample(_) -> Callable:
    return upsample


@translate.register(nn.Conv2d)
@translate.register(nn.Linear)
def _layer(_) -> Callable:
    return write_layer


def layer_weights(layer: nn.Conv2d | nn.Linear,
                  neuron: IELIF | None) -> Weights:
    """What a layer computes of the counts of a neuron, or of real values."""
    bits = layer.bits if isinstance(layer, LSQWeight) else None
    codes = layer.weight if bits is None else layer.integer_weight()
    codes = codes.detach().double().numpy()
    scale, bias = np.ones(len(codes)), np.zeros(len(codes))
    if bits is not None:
        scale = layer.positive_step_size().detach().double().numpy()
    if layer.bias is not None:
        bias = bias + layer.bias.detach().double().numpy()
    if neuron is not None:
        scale = scale * neuron.amplitude
    geometry = {}
    if isinstance(layer, nn.Conv2d):
        if layer.padding_mode != 'zeros' or isinstance(layer.padding, str):
            raise unsupported('padding other than a number of zeros')
        geometry = {name: getattr(layer, name) for name in (
            'stride', 'padding', 'dilation', 'groups')}
    return Weights(codes, scale, bias, bits, **geometry)


def write_layer(layer: nn.Conv2d | nn.Linear, writer: Writer,
                x: Value) -> Layer:
    """A layer that will be written when something reads it."""
    if not isinstance(x, Counts):
        x = x.real()
    return writer.layer(x, layer_weights(layer, x.neuron))


@translate.register(nn.ConvTranspose2d)
def _deconv(_) -> Callable:

    def write(module: nn.ConvTranspose2d, writer: Writer,
              x: Value) -> Value:
        graph, x = writer.graph, x.real()
        inputs = [module.weight.detach().numpy()]
        if module.bias is not None:
            inputs.append(module.bias.detach().numpy())
        (top, left), (bottom, right) = module.padding, module.output_padding
        name = graph.node(
            'ConvTranspose', x.first_name(),
            *(graph.constant(array, np.float32) for array in inputs),
            strides=list(module.stride), group=module.groups,
            dilations=list(module.dilation), pads=[top, left, top, left],
            output_padding=[bottom, right])
        return x.like(name, channels=module.out_channels, last=False)

    return write


@translate.register(_BatchNorm)
def _norm(_) -> Callable:

    def write(norm: _BatchNorm, writer: Writer, x: Value) -> Value:
        gain, shift = (p.numpy() for p in norm_gain_and_shift(norm))
        if isinstance(x, Layer) and x.written is None:
            return x.affine(gain, shift)
        x = x.real()
        x = x.apply('Mul', x.per_channel(gain))
        return x.apply('Add', x.per_channel(shift))

    return write


@translate.register(BatchNormPad)
def _norm_pad(_) -> Callable:

    def write(norm: BatchNormPad, writer: Writer, x: Layer) -> Layer:
        gain, shift = (p.numpy() for p in norm_gain_and_shift(norm.bn))
        # Its border is what the norm makes of zero: no spikes there.
        return x.affine(gain, shift).changed(padding=(norm.padding, ) * 2)

    return write


@translate.register(SpikingNeuron)
def _neuron(_) -> Callable:

    def write(neuron: SpikingNeuron, writer: Writer, x: Value) -> Value:
        path = writer.graph.scope
        if writer.integer:
            y = counts = write_neuron(neuron, x)
        else:
            y, counts = write_float_neuron(neuron, x)
        writer.counts.setdefault(path, []).append(counts)
        return y

    return write


@translate.register(RepConv)
def _rep_conv(unit: RepConv) -> Callable | None:
    """Without neurons inside, its border becomes zeros and a bias.

    See :class:`mmqsdt.deploy.fast.FastRepConv` for the algebra.
    """
    if unit.inner_neuron1 is not None:
        return None  # its own forward

    def write(unit: RepConv, writer: Writer, x: Value) -> Layer:
        first = unit.norm_pad(unit.pointwise1(x))
        middle = layer_weights(unit.depthwise, None)
        last = layer_weights(unit.pointwise2, None)
        shift = middle.float_weight().sum((1, 2, 3)) * first.weights.bias
        shift = last.float_weight()[:, :, 0, 0] @ shift
        padding = first.weights.padding
        first = first.changed(
            bias=np.zeros_like(first.weights.bias), padding=(0, 0))
        middle.padding = padding
        last.bias = last.bias + shift
        return unit.norm(writer.layer(writer.layer(first, middle), last))

    return write


@translate.register(SpikeAttention)
def _attention(unit: SpikeAttention) -> Callable:
    return write_attention


def joined(layers: list[Layer]) -> Weights:
    """Several layers side by side."""
    parts = [layer.weights for layer in layers]
    bits = {p.bits for p in parts}
    values = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ('codes', 'scale', 'bias')
    }
    first = parts[0]
    return Weights(
        bits=bits.pop(), stride=first.stride, padding=first.padding,
        dilation=first.dilation,
        groups=sum(p.groups for p in parts) if first.groups > 1 else 1,
        **values)


def write_attention(unit: SpikeAttention, writer: Writer,
                    x: Value) -> Layer:
    """Q-SDSA, k^T v first; q, k and v are computed side by side."""
    graph, channels, heads = writer.graph, x.channels, unit.num_heads
    x = unit.neuron(x)
    lasts = [
        getattr(unit, f'{n}_norm')(getattr(unit, f'{n}_conv')(x))
        for n in 'qkv'
    ]
    if unit.q_conv.inner_neuron1 is None:
        middles = [layer.source for layer in lasts]
        y = writer.layer(x, joined([m.source for m in middles]))
        y = writer.layer(y.real(), joined(middles)).real()  # (B, 3C, H, W)
        y = graph.node('Reshape', y.first_name(), graph.constant(
            [0, 3, channels, -1], np.int64))
        weights = np.stack(
            [w.weights.float_weight()[:, :, 0, 0] for w in lasts])
        y = graph.node('MatMul', graph.constant(weights, np.float32), y)
        bias = np.stack([w.weights.bias for w in lasts])[..., None]
        y = graph.node('Add', y, graph.constant(bias, np.float32))
        y = graph.node('Reshape', y, graph.constant(
            [0, 3 * channels, 1, -1], np.int64))
        parts = graph.node(
            'Split', y, graph.constant([channels] * 3, np.int64), outputs=3,
            axis=1)
        lasts = [Value(graph, part, channels) for part in parts]
    q, k, v = (
        heads_of(getattr(unit, f'{n}_neuron')(part), heads)
        for n, part in zip('qkv', lasts))
    kv = graph.node('MatMul', v.name,
                    graph.node('Transpose', k.name, perm=[0, 1, 3, 2]))
    y = exact_product(writer, unit, kv, q.name)
    size = graph.node('Shape', x.first_name(), start=2)
    size = graph.node('Concat', graph.constant([0, channels], np.int64),
                      size, axis=0)
    y = Value(graph, graph.node('Reshape', y, size), channels,
              unit=unit.scale * q.unit * k.unit * v.unit)
    if not writer.integer:
        y.unit = 1.
        y = y.apply('Mul', graph.constant(unit.scale, np.float32))
    return unit.proj_norm(unit.proj_conv(unit.attn_neuron(y)))


def heads_of(x: Value, heads: int) -> Value:
    """Spikes as (B, heads, d, N), float32; counts stay counts."""
    unit = x.neuron.amplitude if isinstance(x, Counts) else 1.
    shape = x.graph.constant([0, heads, x.channels // heads, -1], np.int64)
    name = x.graph.node('Reshape', x.first_name(), shape)
    if isinstance(x, Counts):
        name = x.like(name).graph.node('Cast', name, to=1)
    return x.like(name, unit=unit, last=False)


def exact_product(writer: Writer, unit: SpikeAttention, kv: str,
                  q: str) -> str:
    """kv q, in float64 if a sum could reach what float32 cannot hold."""
    graph = writer.graph
    if not writer.integer:
        return graph.node('MatMul', kv, q)
    bound = 1
    for name in 'qkv':
        bound *= getattr(unit, f'{name}_neuron').levels
    channels = unit.q_norm.num_features
    tokens = (writer.size[0] // 16 + 1) * (writer.size[1] // 16 + 1)
    if bound * tokens * channels // unit.num_heads < EXACT_FLOAT32:
        return graph.node('MatMul', kv, q)
    y = graph.node('MatMul', graph.node('Cast', kv, to=11),
                   graph.node('Cast', q, to=11))
    return graph.node('Cast', y, to=1)


def check_neurons(model: nn.Module) -> None:
    """Refuse neurons that have no translation.

    Raises:
        ValueError: Names the first, and why.
    """
    for path, neuron in model.named_modules():
        if not isinstance(neuron, SpikingNeuron):
            continue
        if type(neuron) is not IELIF or neuron.time_steps > 1:
            raise ValueError(
                'only IE-LIF neurons of one time step can be written as '
                f'ONNX, but {path} is a {type(neuron).__name__} with '
                f'time_steps={neuron.time_steps}')
        if neuron.levels > MAX_LEVELS:
            raise ValueError(f'{path} has levels={neuron.levels}; integer '
                             f'kernels take counts of up to {MAX_LEVELS}')
