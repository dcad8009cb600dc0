"""Weight layers and neurons as nodes, in float and in integer arithmetic.

A layer is written when something reads it: a layer scale, and in the integer
form a neuron, can so become part of it.
"""

from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from ...layers import IELIF
from ..fold import fold_scale_and_bias, geometry
from ..program import WeightLayer
from .graph import Graph, Value, unsupported
from .requantize import requantize, tie_free_step


class Counts(Value):
    """Spike counts of neurons, uint8.

    Args:
        levels (int): D, the largest count.
        amplitude (float): Of one spike.
        *args, **kwargs: See :class:`Value`.
    """

    def __init__(self, levels: int, amplitude: float, *args,
                 **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.levels, self.amplitude = levels, amplitude

    def as_float(self) -> Value:
        """Return the counts as float32."""
        name = self.graph.node('Cast', self.name, to=TensorProto.FLOAT)
        return self.like(name)

    def real(self) -> Value:
        """Return what the neurons emit: their amplitude times the counts."""
        x = self.as_float()
        return x if self.amplitude == 1 else x.apply(
            'Mul', self.graph.constant(self.amplitude, np.float32))

    def written(self) -> 'Counts':
        """See :class:`Value`."""
        return self

    def same(self, name: str, **changes) -> 'Counts':
        """See :class:`Value`."""
        known = dict(channels=self.channels, rank=self.rank, last=self.last)
        return Counts(self.levels, self.amplitude, self.graph, name,
                      **{**known, **changes})


@dataclass
class Weights:
    """What a layer computes: y = scale * (codes . x) + bias.

    Attributes:
        codes (np.ndarray): (out, in / groups, k, k) or (out, in), float64,
            integers if ``bits`` is given.
        scale, bias (np.ndarray): (out, ), float64.
        bits (int, optional): None for float weights, with a scale of 1.
        stride, padding, dilation, output_padding (tuple[int, int]): Of a
            conv.
        groups (int): Of a conv.
        follower (str): Path of the neuron that alone reads the layer, and
            nothing else; '' if there is none.
    """
    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    bits: int | None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    output_padding: tuple[int, int] = (0, 0)
    groups: int = 1
    follower: str = ''

    @classmethod
    def of(cls, entry: WeightLayer, follower: str) -> 'Weights':
        """Of a layer and the norms that are part of it."""
        layer = entry.layer
        codes = layer.weight if entry.bits is None else layer.integer_weight()
        # What a spike is, the neuron says.
        scale, bias = fold_scale_and_bias(replace(entry, spikes=None))
        where = {} if codes.dim() == 2 else geometry(entry)
        if codes.dim() not in (2, 4) or isinstance(where.get('padding'), str):
            raise unsupported(f'{entry.name}, a {type(layer).__name__} with '
                              f'padding={where.get("padding")!r},')
        return cls(codes.detach().double().numpy(), scale.numpy(),
                   bias.numpy(), entry.bits, follower=follower, **where)

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Of a conv; () of a linear layer."""
        return self.codes.shape[2:]

    @property
    def is_pointwise(self) -> bool:
        """Whether it works on each pixel alone, like a linear layer."""
        return self.groups == 1 and self.kernel_size in ((), (1, 1)) and (
            self.stride, self.padding) == ((1, 1), (0, 0))

    def float_weight(self) -> np.ndarray:
        """scale * codes, float64."""
        return self.codes * self.scale.reshape(
            -1, *[1] * (self.codes.ndim - 1))

    def attributes(self) -> dict:
        """Of a Conv node."""
        height, width = self.padding
        return dict(
            kernel_shape=list(self.kernel_size),
            strides=list(self.stride),
            pads=[height, width, height, width],
            dilations=list(self.dilation),
            group=self.groups)


class Layer(Value):
    """The output of a layer that is not written yet.

    Args:
        source (Value): What the layer reads.
        weights (Weights): Of the layer.
    """

    def __init__(self, source: Value, weights: Weights) -> None:
        rank = 4 if weights.codes.ndim == 4 else 2
        super().__init__(source.graph, '', len(weights.codes), rank)
        self.scope = source.graph.scope
        self.source = source
        self.weights = weights
        self.output: Value | None = None

    def changed(self, **weights) -> 'Layer':
        """Return the same layer with other weights."""
        layer = type(self)(self.source, replace(self.weights, **weights))
        layer.scope = self.scope
        return layer

    def affine(self, gain: np.ndarray, shift: np.ndarray) -> Value:
        """With an affine map of each channel folded into it."""
        if self.output is not None:
            return super().affine(gain, shift)
        w = self.weights
        return self.changed(
            scale=w.scale * gain, bias=w.bias * gain + shift)

    def real(self) -> Value:
        """Write the layer, once."""
        if self.output is None:
            scope, self.graph.scope = self.graph.scope, self.scope
            self.output = self.write()
            self.graph.scope = scope
        return self.output

    def write(self) -> Value:
        """As a float layer."""
        graph, w = self.graph, self.weights
        source = self.source.as_float() if isinstance(
            self.source, Counts) else self.source.real()
        weight = graph.constant(w.float_weight(), np.float32)
        bias = graph.constant(w.bias, np.float32)
        if self.rank == 2:
            name = graph.node(
                'Gemm', source.name, weight, bias, transB=1)
            return Value(graph, name, self.channels, 2)
        name = graph.node('Conv', source.first_name(), weight, bias,
                          **w.attributes())
        return Value(graph, name, self.channels)

    def fused(self, neuron: IELIF) -> Counts | None:
        """Write the layer and the neuron behind it in one, if possible."""
        return None


class IntegerLayer(Layer):
    """A layer of the integer form."""

    def __init__(self, source: Value, weights: Weights) -> None:
        super().__init__(source, weights)
        # A layer cannot be told from its opposite: scales are positive.
        negative = self.weights.scale < 0
        codes = np.where(
            negative.reshape(-1, *[1] * (weights.codes.ndim - 1)),
            -weights.codes, weights.codes)
        if weights.bits is not None and codes.max() <= 127:
            self.weights = replace(
                weights, codes=codes, scale=np.abs(weights.scale))

    @property
    def integer(self) -> bool:
        """Whether it multiplies integer codes with counts."""
        return isinstance(self.source, Counts) \
            and self.weights.bits is not None \
            and (self.weights.scale >= 0).all()

    def write(self) -> Value:
        """See :class:`Layer`; exact sums wherever it reads counts."""
        w = self.weights
        if not self.integer:
            return super().write()
        if w.groups > 1:
            return super().write()
        if self.rank == 2:
            return self.write_linear()
        name = self.write_product(
            self.source.last_name(), w.codes[:, :, 0, 0], w.scale
        ) if w.is_pointwise else self.write_rows()
        y = Value(self.graph, name, self.channels, last=True)
        return y.apply('Add', y.per_channel(w.bias)) if w.bias.any() else y

    def quantized_conv(self, x: str, codes: np.ndarray, bias: np.ndarray,
                       factors: np.ndarray) -> str:
        """Write what becomes QLinearConv: round(factor * (codes . x + bias)).

        Args:
            x (str): Counts, uint8.
            codes (np.ndarray): int8.
            bias (np.ndarray): int32, (out, ).
            factors (np.ndarray): float32, (out, ).
        """
        graph = self.graph
        one = graph.constant(1, np.float32)
        factors = graph.constant(factors, np.float32)
        zeros = graph.constant(np.zeros(len(codes)), np.int8)
        zeros32 = graph.constant(np.zeros(len(codes)), np.int32)
        zero = graph.constant(0, np.uint8)
        inputs = (graph.node('DequantizeLinear', x, one, zero),
                  graph.node(
                      'DequantizeLinear', graph.constant(codes, np.int8),
                      factors, zeros, axis=0),
                  graph.node(
                      'DequantizeLinear', graph.constant(bias, np.int32),
                      factors, zeros32, axis=0))
        y = graph.node('Conv', *inputs, **self.weights.attributes())
        return graph.node('QuantizeLinear', y, one, zero)

    def fused(self, neuron: IELIF) -> Counts | None:
        """See :class:`Layer`: QLinearConv, then a Clip of integers."""
        w = self.weights
        if not self.integer or self.rank == 2 or self.output is not None:
            return None
        found = requantize(w.codes, w.scale, w.bias, self.source.levels,
                           neuron)
        if found is None:
            return None
        scope, self.graph.scope = self.graph.scope, self.scope
        name = self.quantized_conv(self.source.first_name(), *found)
        name = clipped(self.graph, name, neuron.levels)
        self.graph.scope = scope
        return Counts(neuron.levels, neuron.amplitude, self.graph, name,
                      self.channels)

    def write_linear(self) -> Value:
        """Write a linear layer as a product with one axis more.

        Without that axis it would become a Gemm of floats.
        """
        graph, w = self.graph, self.weights
        axis = graph.constant([1], np.int64)
        x = graph.node('Unsqueeze', self.source.name, axis)
        y = graph.node('Add', self.write_product(x, w.codes, w.scale),
                       graph.constant(w.bias, np.float32))
        return Value(graph, graph.node('Squeeze', y, axis), self.channels, 2)

    def write_product(self, x: str, codes: np.ndarray,
                      scale: np.ndarray) -> str:
        """Write what becomes MatMulIntegerToFloat: scale * (codes . x).

        Args:
            x (str): Counts, uint8, channels last.
            codes (np.ndarray): (out, in).
            scale (np.ndarray): (out, ).
        """
        graph = self.graph
        x = graph.node('DequantizeLinear', x, graph.constant(1, np.float32),
                       graph.constant(0, np.uint8))
        weight = graph.node(
            'DequantizeLinear', graph.constant(codes.T, np.int8),
            graph.constant(scale, np.float32),
            graph.constant(np.zeros(len(codes)), np.int8), axis=1)
        return graph.node('MatMul', x, weight)

    def write_rows(self) -> str:
        """Write a conv as a product for each kernel row, channels last.

        ONNX Runtime has no integer conv with a float output. So the columns
        under a row of the kernel lie side by side as channels, the product
        with that row of codes sums over them, and the rows are added up,
        as integers still.
        """
        graph, w = self.graph, self.weights
        x = self.source.last_name()
        (top, left), (height, width) = w.padding, w.kernel_size
        if top or left:
            pads = graph.constant([0, top, left, 0] * 2, np.int64)
            x = graph.node('Pad', x, pads)
        columns = [
            self.shifted(x, 2, i, width) for i in range(width)
        ]
        x = graph.node('Concat', *columns, axis=3) if width > 1 else x
        total = ''
        for i in range(height):
            codes = w.codes[:, :, i].transpose(0, 2, 1)
            product = self.write_product(
                self.shifted(x, 1, i, height), codes.reshape(len(codes), -1),
                np.ones(len(codes)))
            total = graph.node('Add', total, product) if total else product
        return graph.node('Mul', total, graph.constant(w.scale, np.float32))

    def shifted(self, x: str, axis: int, tap: int, taps: int) -> str:
        """Return the pixels that a kernel's tap reads, along height or width.

        Args:
            x (str): Padded, channels last.
            axis (int): 1, height; 2, width.
            tap, taps (int): Which one of how many.
        """
        dilation = self.weights.dilation[axis - 1]
        stride = self.weights.stride[axis - 1]
        if taps == 1 and stride == 1:
            return x
        end = (tap + 1 - taps) * dilation or np.iinfo(np.int64).max
        limits = (self.graph.constant([n], np.int64)
                  for n in (tap * dilation, end, axis, stride))
        return self.graph.node('Slice', x, *limits)


def clipped(graph: Graph, name: str, levels: int) -> str:
    """Saturate counts at D, as integers: float clips would not be fused."""
    return graph.node('Clip', name, graph.constant(0, np.uint8),
                      graph.constant(levels, np.uint8))


def write_neuron(neuron: IELIF, x: Value, path: str) -> Counts:
    """Write an IE-LIF neuron of one time step that emits counts as uint8.

    QuantizeLinear rounds half to even; :func:`tie_free_step` makes it round
    half up where the neuron does.
    """
    if isinstance(x, Layer) and x.weights.follower == path:
        fused = x.fused(neuron)
        if fused is not None:
            return fused
    x = x.real()
    step = tie_free_step(neuron.threshold / x.unit, neuron.levels,
                         neuron.rounding)
    name = x.graph.node('QuantizeLinear', x.name,
                        x.graph.constant(step, np.float32),
                        x.graph.constant(0, np.uint8))
    return Counts(neuron.levels, neuron.amplitude, x.graph,
                  clipped(x.graph, name, neuron.levels), x.channels, x.rank,
                  x.last)


def write_float_neuron(neuron: IELIF, x: Value) -> tuple[Value, Value]:
    """Write the same in float arithmetic: what it emits, and its counts."""
    x = x.real()
    graph = x.graph

    def constant(value: float) -> str:
        return graph.constant(value, np.float32)

    x = x.apply('Div', constant(neuron.threshold))
    x = x.apply('Clip', constant(0), constant(neuron.levels))
    x = x.apply('Add', constant(.5)).apply('Floor') \
        if neuron.rounding == 'half_up' else x.apply('Round')
    return x if neuron.amplitude == 1 else x.apply(
        'Mul', constant(neuron.amplitude)), x
