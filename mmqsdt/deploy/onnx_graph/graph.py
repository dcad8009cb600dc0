"""An ONNX graph under construction, and the tensors in it.

A :class:`Value` stands for a tensor. It is given to the forward of a model
in place of one, and what the forward does with it becomes nodes: containers
(blocks, necks, heads) so run their own code. What is known of modules is in
``modules``.
"""

from collections import Counter
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

    Args:
        draft (Graph, optional): Of the same model. A layer is fused with a
            neuron only if the draft shows that nothing else reads it;
            without a draft none is.

    Attributes:
        layers (int): Layers seen so far.
        readers (Counter): How many times each of them was read, by number.
        nodes (list[NodeProto]): Written so far.
        constants (dict[str, TensorProto]): By name.
        scope (str): Path of the module that is being written; part of the
            names of its nodes.
    """

    def __init__(self, draft: 'Graph | None' = None) -> None:
        self.draft = draft
        self.layers = 0
        self.readers: Counter[int] = Counter()
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.scope = ''
        self._known: dict[tuple, str] = {}
        self._turned: dict[tuple[str, tuple[int, ...]], str] = {}

    def number_layer(self) -> int:
        """The next number, the same in a draft and in the final graph."""
        self.layers += 1
        return self.layers

    def has_one_reader(self, layer: int) -> bool:
        """Whether the draft says that a layer is read but once."""
        return self.draft is not None and self.draft.readers[layer] == 1

    def unique(self, name: str) -> str:
        """The name with the scope before it and a number behind it."""
        scope = f'{self.scope}/' if self.scope else ''
        return f'{scope}{name}_{len(self.nodes) + len(self.constants)}'

    def constant(self, array, dtype: type | None = None) -> str:
        """A constant tensor; equal ones are stored once."""
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
        """A tensor with its axes in another order; each is turned once."""
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
        factor (int): By which it is multiplied. Defaults to 1.
    """
    value: 'Value'
    factor: int = 1


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

    neuron = None  # whose counts these are

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
        """This value, written."""
        return self

    def first_name(self) -> str:
        """The tensor with channels first."""
        return self.graph.turned(self.name, TO_FIRST) if self.last \
            else self.name

    def last_name(self) -> str:
        """The tensor with channels last."""
        return self.name if self.last or self.rank == 2 \
            else self.graph.turned(self.name, TO_LAST)

    def like(self, name: str, **changes) -> 'Value':
        """A real value of the same shape unless told otherwise."""
        known = dict(channels=self.channels, rank=self.rank, last=self.last)
        return Value(self.graph, name, **{**known, **changes})

    # What a forward does with tensors.

    @property
    def shape(self) -> Shape:
        """See :class:`Shape`."""
        return Shape(self)

    def size(self, dim: int | None = None):
        """The shape, or an entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def __getattr__(self, name: str):
        if name.startswith('__') or not hasattr(Tensor, name):
            raise AttributeError(name)
        raise unsupported(f'Tensor.{name}')

    def dim(self) -> int:
        """Number of axes."""
        return self.rank

    def apply(self, kind: str, *inputs: str, **attributes) -> 'Value':
        """An operation that works on each element."""
        x = self.real()
        return x.like(x.graph.node(kind, x.name, *inputs, **attributes))

    def per_channel(self, array: np.ndarray) -> str:
        """A constant (C, ) that broadcasts over this tensor, float32."""
        shape = -1, *[1] * (self.rank - 2 if not self.last else 0)
        return self.graph.constant(array.reshape(shape), np.float32)

    def __add__(self, other: 'Value') -> 'Value':
        if not isinstance(other, Value):
            return NotImplemented
        x, y = self.real(), other.real()
        name = y.name if x.last == y.last else \
            y.last_name() if x.last else y.first_name()
        return x.like(x.graph.node('Add', x.name, name))

    def __mul__(self, factor: Tensor) -> 'Value':
        """By a constant for each channel."""
        x = self.real()
        array = factor.detach().double().numpy().ravel()
        return x.apply('Mul', x.per_channel(array))

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
        """The same, with a known number of channels."""
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
    """The error for what cannot be written."""
    return ValueError(
        f'this model cannot be written as ONNX: {what} has no translation in '
        'mmqsdt.deploy.onnx_graph; --part backbone exports the backbone '
        'alone, whatever stands behind it')


def resize(x: Value,
           size: Size | None = None,
           scale_factor: float | None = None,
           mode: str = 'nearest',
           align_corners: bool | None = None,
           **_) -> Value:
    """F.interpolate, to the size of another map or by a factor."""
    x = x.real()
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
    if isinstance(size, Size):
        spatial = graph.node('Shape', size.value.real().first_name(), start=2)
        if size.factor != 1:
            spatial = graph.node('Mul', spatial,
                                 graph.constant(size.factor, np.int64))
        leading = graph.node('Shape', x.first_name(), start=0, end=2)
        sizes = graph.node('Concat', leading, spatial, axis=0)
        name = graph.node('Resize', x.first_name(), '', '', sizes, **how)
    elif scale_factor is not None:
        scales = graph.constant([1, 1, scale_factor, scale_factor],
                                np.float32)
        name = graph.node('Resize', x.first_name(), '', scales, **how)
    else:
        raise unsupported('resizing to a fixed size')
    return x.like(name, last=False)


def max_pool(x: Value,
             kernel_size: int,
             stride: int | None = None,
             padding: int = 0,
             dilation: int = 1,
             ceil_mode: bool = False,
             return_indices: bool = False) -> Value:
    """F.max_pool2d with square windows."""
    if dilation != 1 or ceil_mode or return_indices:
        raise unsupported('max pooling with dilation, ceil_mode or indices')
    x = x.real()
    name = x.graph.node(
        'MaxPool',
        x.first_name(),
        kernel_shape=[kernel_size] * 2,
        strides=[stride or kernel_size] * 2,
        pads=[padding] * 4)
    return x.like(name, last=False)


FUNCTIONS = {
    F.interpolate: resize,
    F.max_pool2d: max_pool,
    torch.max_pool2d: max_pool,  # what F.max_pool2d may call
    F.relu: lambda x, inplace=False: x.apply('Relu'),
    torch.flatten: lambda x, start_dim=0: x.flatten(start_dim),
}
