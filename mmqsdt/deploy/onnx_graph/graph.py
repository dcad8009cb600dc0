"""An ONNX graph under construction, and the tensors in it.

A :class:`Value` stands for a tensor. It is given to the forward of a model
in place of one, and what the forward does with it becomes nodes: containers
(blocks, necks, heads) so run their own code. What takes the place of layers
and neurons is in ``modules``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

# Where the axes of a map stand.
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class Graph:
    """Nodes and constants, in the order they were written.

    Attributes:
        nodes (list[NodeProto]): Written so far.
        counts (dict[str, list[Value]]): What each neuron emitted at each of
            its calls, by its path.
        constants (dict[str, TensorProto]): By name.
        scope (str): Path of the module that is being written; part of the
            names of its nodes.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.counts: dict[str, list[Value]] = {}
        self.constants: dict[str, TensorProto] = {}
        self.scope = ''
        self._known: dict[tuple, str] = {}
        self._turned: dict[tuple[str, tuple[int, ...]], str] = {}

    def unique(self, name: str) -> str:
        """Make a name: scope, name, number."""
        scope = f'{self.scope}/' if self.scope else ''
        return f'{scope}{name}_{len(self.nodes) + len(self.constants)}'

    def constant(self, array, dtype: type | None = None) -> str:
        """Add a constant tensor; equal ones are stored once."""
        array = np.asarray(array, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = self._known[key] = self.unique('constant')
            self.constants[name] = numpy_helper.from_array(
                np.ascontiguousarray(array).reshape(array.shape), name)
        return self._known[key]

    def node(self, kind: str, *inputs: str, outputs: int = 1,
             **attributes):
        """Write a node.

        Returns:
            str | list[str]: Name of its output, or names if there are more.
        """
        name = self.unique(kind)
        names = [name] if outputs == 1 else [
            f'{name}:{i}' for i in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, inputs, names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def turned(self, name: str, order: tuple[int, ...]) -> str:
        """Permute a tensor's axes; each is turned once."""
        key = name, order
        if key not in self._turned:
            turned = self.node('Transpose', name, perm=order)
            self._turned[key] = turned
            if order in (TO_LAST, TO_FIRST):
                back = TO_LAST if order == TO_FIRST else TO_FIRST
                self._turned[turned, back] = name
        return self._turned[key]


@dataclass
class Size:
    """Height and width of a value, known when the graph runs.

    Attributes:
        value (Value): Whose size.
    """
    value: 'Value'


class Shape:
    """What ``Value.shape`` gives: channels are known, the rest is not."""

    def __init__(self, value: 'Value') -> None:
        self.value = value

    def __len__(self) -> int:
        return self.value.rank

    def __getitem__(self, index):
        if index in (slice(2, None), slice(-2, None)) \
                and self.value.rank == 4:
            return Size(self.value)
        if index == 1:
            return self.value.channels
        return None  # batch, height or width

    def __iter__(self):
        return (self[i] for i in range(len(self)))


class Value:
    """A real-valued tensor of the graph, float32.

    Args:
        graph (Graph): Whose.
        name (str): Of the tensor.
        channels (int): Of axis 1.
        rank (int): 4, a map (B, C, H, W); or 2, features (B, C).
            Defaults to 4.
        last (bool): Whether the tensor has the channels of a map last.
            Defaults to False.
        unit (float): What 1 in the tensor stands for; only neurons
            understand others than 1. Defaults to 1.
    """

    def __init__(self,
                 graph: Graph,
                 name: str,
                 channels: int,
                 rank: int = 4,
                 last: bool = False,
                 unit: float = 1.) -> None:
        self.graph = graph
        self.name = name
        self.channels = channels
        self.rank = rank
        self.last = last
        self.unit = unit

    def real(self) -> 'Value':
        """Write this value, and return it as a real one."""
        return self

    def written(self) -> 'Value':
        """Write this value, and return it; counts stay counts."""
        return self.real()

    def same(self, name: str, **changes) -> 'Value':
        """Of the same kind, with the same amplitude."""
        return self.like(name, **changes)

    def first_name(self) -> str:
        """Return the tensor with channels first."""
        return self.graph.turned(self.name, TO_FIRST) if self.last \
            else self.name

    def last_name(self) -> str:
        """Return the tensor with channels last."""
        return self.name if self.last or self.rank == 2 \
            else self.graph.turned(self.name, TO_LAST)

    def like(self, name: str, **changes) -> 'Value':
        """Make a real value, of the same shape unless told otherwise."""
        known = dict(channels=self.channels, rank=self.rank, last=self.last)
        return Value(self.graph, name, **{**known, **changes})

    # What a forward does with tensors.

    @property
    def shape(self) -> Shape:
        """See :class:`Shape`."""
        return Shape(self)

    def size(self, dim: int | None = None):
        """Return the shape, or an entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def __getattr__(self, name: str):
        if name.startswith('__') or not hasattr(Tensor, name):
            raise AttributeError(name)
        raise unsupported(f'Tensor.{name}')

    def dim(self) -> int:
        """Return the number of axes."""
        return self.rank

    def __len__(self) -> int:
        """For those who ask whether there is anything at all."""
        return 1

    numel = __len__

    def apply(self, kind: str, *inputs: str, **attributes) -> 'Value':
        """Add an operation that works on each element."""
        x = self.real()
        return x.like(x.graph.node(kind, x.name, *inputs, **attributes))

    def per_channel(self, array: np.ndarray) -> str:
        """Add a constant (C, ) that broadcasts over this tensor, float32."""
        shape = -1, *[1] * (self.rank - 2 if not self.last else 0)
        return self.graph.constant(array.reshape(shape), np.float32)

    def __add__(self, other: 'Value') -> 'Value':
        if not isinstance(other, Value):
            return NotImplemented
        x, y = self.real(), other.real()
        name = y.name if x.last == y.last else \
            y.last_name() if x.last else y.first_name()
        return x.like(x.graph.node('Add', x.name, name))

    def __radd__(self, other: float) -> 'Value':
        """Add: the sum of a list begins with 0."""
        return self if other == 0 else NotImplemented

    def affine(self, gain: np.ndarray, shift: np.ndarray) -> 'Value':
        """Return an affine map of each channel, float64."""
        x = self.real()
        if (gain != 1).any():
            x = x.apply('Mul', x.per_channel(gain))
        return x.apply('Add', x.per_channel(shift)) if shift.any() else x

    def __mul__(self, factor: 'Tensor | float') -> 'Value':
        """By a constant for each channel, or for all."""
        if isinstance(factor, Value):
            raise unsupported('a product of two maps')
        gain = torch.as_tensor(factor).detach().double().numpy()
        if gain.size not in (1, self.channels) or gain.ndim and \
                gain.shape[-min(gain.ndim, self.rank - 1)] != gain.size:
            raise unsupported('a factor for other than each channel')
        gain = np.broadcast_to(gain.ravel(), self.channels)
        return self.affine(gain, np.zeros_like(gain))

    __rmul__ = __mul__

    def __neg__(self) -> 'Value':
        return self * -1.

    def flatten(self, start_dim: int = 0) -> 'Value':
        """(B, C, H, W) to (B, C * H * W)."""
        if start_dim != 1:
            raise unsupported('flatten from another axis than 1')
        if self.rank == 2:
            return self
        x = self.real()
        return x.like(
            x.graph.node('Flatten', x.first_name(), axis=1),
            channels=None, rank=2, last=False)

    def view(self, *shape) -> 'Value':
        """(B, C, 1, 1) to (B, C), as pooling necks do."""
        if shape != (None, -1):
            raise unsupported(f'view{shape}')
        return self.flatten(1).like_channels(self.channels)

    def like_channels(self, channels: int) -> 'Value':
        """Return the same, with a known number of channels."""
        return self.like(self.name, channels=channels)

    def mean(self, dim) -> 'Value':
        """(B, C, H, W) to (B, C)."""
        if tuple(dim) != (2, 3):
            raise unsupported('a mean over other axes than height and width')
        x = self.real()
        pooled = x.graph.node('GlobalAveragePool', x.first_name())
        return x.like(
            x.graph.node('Flatten', pooled, axis=1), rank=2, last=False)

    @classmethod
    def __torch_function__(cls,
                           function: Callable,
                           types: Sequence[type],
                           args: tuple = (),
                           kwargs: dict | None = None):
        if function not in FUNCTIONS:
            name = getattr(function, '__name__', str(function))
            raise unsupported(f'the function {name}')
        return FUNCTIONS[function](*args, **kwargs or {})


def unsupported(what: str) -> ValueError:
    """Make the error for what cannot be written."""
    return ValueError(
        f'this model cannot be written as ONNX: {what} has no translation in '
        'mmqsdt.deploy.onnx_graph; --part backbone exports the backbone '
        'alone, whatever stands behind it')


def resize(x: Value,
           size: Size | None = None,
           scale_factor: float | None = None,
           mode: str = 'nearest',
           align_corners: bool | None = None,
           recompute_scale_factor: bool | None = None,
           antialias: bool = False) -> Value:
    """F.interpolate, to the size of another map or by a factor."""
    x = x.written() if mode == 'nearest' else x.real()
    graph = x.graph
    if mode == 'nearest':
        how = dict(
            mode='nearest',
            coordinate_transformation_mode='asymmetric',
            nearest_mode='floor')
    elif mode == 'bilinear':
        corners = 'align_corners' if align_corners else 'half_pixel'
        how = dict(mode='linear', coordinate_transformation_mode=corners)
    else:
        raise unsupported(f'resizing in mode {mode!r}')
    if antialias:
        raise unsupported('resizing with antialias')
    if isinstance(size, Size):
        spatial = graph.node('Shape', size.value.written().first_name(),
                             start=2)
        leading = graph.node('Shape', x.first_name(), start=0, end=2)
        sizes = graph.node('Concat', leading, spatial, axis=0)
        name = graph.node('Resize', x.first_name(), '', '', sizes, **how)
    elif scale_factor is not None:
        factors = np.broadcast_to(np.asarray(scale_factor), 2)
        scales = graph.constant([1, 1, *factors], np.float32)
        name = graph.node('Resize', x.first_name(), '', scales, **how)
    else:
        raise unsupported('resizing to a fixed size')
    return x.same(name, last=False)


def max_pool(x: Value,
             kernel_size: int | tuple[int, int],
             stride: int | tuple[int, int] | None = None,
             padding: int | tuple[int, int] = 0,
             dilation: int = 1,
             ceil_mode: bool = False,
             return_indices: bool = False) -> Value:
    """F.max_pool2d; of counts it gives counts."""
    if dilation not in (1, (1, 1)) or ceil_mode or return_indices:
        raise unsupported('max pooling with dilation, ceil_mode or indices')
    x = x.written()
    kernel, strides, pads = (list(np.broadcast_to(n, 2).tolist()) for n in (
        kernel_size, stride or kernel_size, padding))
    name = x.graph.node('MaxPool', x.first_name(), kernel_shape=kernel,
                        strides=strides, pads=pads * 2)
    return x.same(name, last=False)


def cat(values: Sequence[Value], dim: int = 0) -> Value:
    """torch.cat of channels; counts of one amplitude stay counts."""
    if dim not in (1, 1 - values[0].rank) or not all(
            isinstance(x, Value) for x in values):
        raise unsupported('putting together other than the channels of maps')
    first = values[0].written()
    values = [first, *(x.written() for x in values[1:])]
    if len({getattr(x, 'amplitude', None) for x in values}) > 1:
        values = [x.real() for x in values]
    name = first.graph.node('Concat', *(x.first_name() for x in values),
                            axis=1)
    largest = max(values, key=lambda x: getattr(x, 'levels', 0))
    return largest.same(name, channels=sum(x.channels for x in values),
                        last=False)


def batch_norm(x: Value, mean: Tensor, var: Tensor,
               weight: Tensor | None = None, bias: Tensor | None = None,
               training: bool = False, momentum: float = 0.1,
               eps: float = 1e-5) -> Value:
    """F.batch_norm in evaluation, of a norm that is part of no layer."""
    if training or mean is None:
        raise unsupported('a batch norm without running statistics')
    gain = (var.double() + eps).rsqrt()
    gain = gain if weight is None else gain * weight.double()
    shift = -mean.double() * gain
    shift = shift if bias is None else shift + bias.double()
    return x.affine(gain.detach().numpy(), shift.detach().numpy())


def dropout(x: Value, p: float = 0.5, training: bool = True,
            inplace: bool = False) -> Value:
    """F.dropout, which does nothing in evaluation."""
    if training:
        raise unsupported('dropout that drops')
    return x


def average(x: Value, output_size) -> Value:
    """F.adaptive_avg_pool2d to one pixel."""
    if output_size not in (1, (1, 1), [1, 1]):
        raise unsupported('adaptive pooling to more than one pixel '
                          f'({output_size})')
    x = x.real()
    name = x.graph.node('GlobalAveragePool', x.first_name())
    return x.like(name, last=False)


def pixel_shuffle(x: Value, factor: int) -> Value:
    """torch.pixel_shuffle."""
    x = x.real()
    name = x.graph.node(
        'DepthToSpace', x.first_name(), blocksize=factor, mode='CRD')
    return x.like(name, channels=x.channels // factor**2, last=False)


FUNCTIONS = {
    F.adaptive_avg_pool2d: average,
    F.batch_norm: batch_norm,
    F.dropout: dropout,
    F.dropout2d: dropout,
    F.interpolate: resize,
    F.max_pool2d: max_pool,
    torch.max_pool2d: max_pool,  # what F.max_pool2d may call
    F.relu: lambda x, inplace=False: x.apply('Relu'),
    torch.cat: cat,
    torch.flatten: lambda x, start_dim=0: x.flatten(start_dim),
    torch.pixel_shuffle: pixel_shuffle,
}
