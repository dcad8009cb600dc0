"""What takes the place of layers, neurons and units: they write themselves.

They come from the program of the model: which norms are part of which layer,
which neuron reads it alone. All else runs its own forward on :class:`Value`.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ...layers import (
    IELIF,
    LSQWeight,
    RepConv,
    SpikeAttention,
    SpikingNeuron,
)
from ..flow import Tracer
from ..forms import replace_modules
from ..inputs import SIDES, cannot, noise
from ..program import Program
from ..spikes import EXACT_FLOAT32
from .graph import Graph, Value, unsupported
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


def trace_outputs(model: nn.Module, outputs_of: Callable, channels: int,
                  side: int | None = None) -> Program:
    """See what a model computes on its way to the outputs of a graph.

    Args:
        model (nn.Module): In float form.
        outputs_of (Callable): From a model and images to outputs.
        channels (int): Of the images.
        side (int, optional): Of the images; tried out by default.

    Raises:
        ValueError: If it does not run.
    """
    errors = []
    for each in SIDES if side is None else [side]:
        copied = deepcopy(model).eval()
        tracer = Tracer(copied, dict(zip(copied.modules(), model.modules())))
        x = noise(model, 1, channels, each, each)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                tracer.call(outputs_of, copied, x)
            return Program(model, tracer)
        except (RuntimeError, AssertionError) as error:  # of another size
            errors.append(error)
    raise ValueError(cannot(model, errors[0]))


class Lowering:
    """Puts modules that write themselves in the place of a model's own.

    Args:
        program (Program): Of the model.
        graph (Graph): Where they write to.
        form (str): 'integer' or 'float'.
        size (tuple[int, int]): Of the largest image, height and width.
    """

    def __init__(self, program: Program, graph: Graph, form: str,
                 size: tuple[int, int]) -> None:
        self.program, self.graph = program, graph
        self.integer, self.size = form == 'integer', size
        self.entries = {
            entry.layer: entry for entry in program.layers.values()
            if entry.inputs and not entry.obstacle
        }

    @cached_property
    def folded(self) -> set[nn.Module]:
        """Norms that are part of a layer."""
        return {n for entry in self.entries.values() for n in entry.norms}

    def weights(self, layer: nn.Module) -> Weights:
        """Return what a layer of the model computes."""
        entry = self.entries[layer]
        return Weights.of(entry, self.program.paths.get(entry.follower, ''))

    def layer(self, source: Value, weights: Weights) -> Layer:
        """Return a layer that is written when something reads it."""
        if isinstance(source, Counts):
            weights = replace(
                weights, scale=weights.scale * source.amplitude)
        else:
            source = source.real()
        return (IntegerLayer if self.integer else Layer)(source, weights)

    def lowered(self, model: nn.Module) -> nn.Module:
        """Copy the model; the copy writes itself when it is given a Value."""
        copied = deepcopy(model).eval()
        new: dict[nn.Module, nn.Module] = {}
        for module, copy in zip(model.modules(), copied.modules()):
            kind = next((kind for known, kind in WRITERS
                         if isinstance(module, known)), None)
            if module in self.folded:
                new[copy] = nn.Identity()
            elif type(copy).__module__ == 'mmseg.models.utils.wrappers':
                new[copy] = whole_factor(copy)
            elif kind is not None and kind.fits(self, module):
                new[copy] = kind(self, module, copy)
        return replace_modules(copied, new)


class Written(nn.Module):
    """Writes nodes, with the path of a module in their names.

    Args:
        lowering (Lowering): Of the model.
        module (nn.Module): Whose place it takes, of the model.
        copy (nn.Module): The same of the copy; its children are replaced.

    Shape: a :class:`Value` in and out.
    """

    def __init__(self, lowering: Lowering, module: nn.Module,
                 copy: nn.Module) -> None:
        super().__init__()
        self.lowering, self.graph = lowering, lowering.graph
        self.path = lowering.program.paths[module]
        # Not its child: what is replaced is what is looked at.
        self.__dict__['of'] = module

    @classmethod
    def fits(cls, lowering: Lowering, module: nn.Module) -> bool:
        """Whether it can take the place of a module."""
        return module not in lowering.program.obstacles

    def forward(self, x: Value) -> Value:
        """See the class."""
        outer, self.graph.scope = self.graph.scope, self.path
        y = self.write(x)
        self.graph.scope = outer
        return y

    def write(self, x: Value) -> Value:
        """Return what it writes."""
        raise NotImplementedError


class WrittenLayer(Written):
    """A conv or linear layer, and the norms that are part of it."""

    @classmethod
    def fits(cls, lowering: Lowering, module: nn.Module) -> bool:
        """See :class:`Written`."""
        return module in lowering.entries

    def write(self, x: Value) -> Layer:
        """See :class:`Written`."""
        return self.lowering.layer(x, self.lowering.weights(self.of))


class WrittenDeconv(WrittenLayer):
    """A transposed conv, in float arithmetic."""

    def write(self, x: Value) -> Value:
        """See :class:`Written`."""
        w, x = self.lowering.weights(self.of), x.real()
        (top, left), (bottom, right) = w.padding, w.output_padding
        plain = (w.scale == 1).all()  # then the bias is the node's
        name = self.graph.node(
            'ConvTranspose', x.first_name(),
            *(self.graph.constant(array, np.float32)
              for array in ([w.codes, w.bias] if plain else [w.codes])),
            strides=list(w.stride), group=w.groups,
            dilations=list(w.dilation), pads=[top, left, top, left],
            output_padding=[bottom, right])
        y = x.like(name, channels=len(w.scale), last=False)
        return y if plain else y.affine(w.scale, w.bias)


class WrittenNeuron(Written):
    """A neuron; what it emits is kept in the graph."""

    def write(self, x: Value) -> Value:
        """See :class:`Written`."""
        if self.lowering.integer:
            y = counts = write_neuron(self.of, x, self.path)
        else:
            y, counts = write_float_neuron(self.of, x)
        self.graph.counts.setdefault(self.path, []).append(counts)
        return y


class WrittenRepConv(Written):
    """RepConv without neurons inside; see :func:`without_border`."""

    def __init__(self, lowering: Lowering, module: RepConv,
                 copy: nn.Module) -> None:
        super().__init__(lowering, module, copy)
        self.parts = without_border(*(
            lowering.weights(layer) for layer in layers_of(module)))

    @classmethod
    def fits(cls, lowering: Lowering, module: nn.Module) -> bool:
        """See :class:`Written`."""
        return module.inner_neuron1 is None and {
            module.norm_pad, module.norm} <= lowering.folded and all(
                layer in lowering.entries for layer in layers_of(module))

    def write(self, x: Value) -> Layer:
        """See :class:`Written`."""
        for weights in self.parts:
            x = self.lowering.layer(x, weights)
        return x


class WrittenAttention(Written):
    """Q-SDSA, k^T v first; q, k and v are computed side by side."""

    def __init__(self, lowering: Lowering, module: SpikeAttention,
                 copy: nn.Module) -> None:
        super().__init__(lowering, module, copy)
        self.heads, self.scale = module.num_heads, module.scale
        self.channels = module.q_norm.num_features
        self.neuron, self.attn_neuron = copy.neuron, copy.attn_neuron
        self.proj_conv = copy.proj_conv
        for name in ('q', 'k', 'v'):
            self.add_module(f'{name}_conv', getattr(copy, f'{name}_conv'))
            self.add_module(f'{name}_neuron', getattr(copy, f'{name}_neuron'))

    @classmethod
    def fits(cls, lowering: Lowering, module: nn.Module) -> bool:
        """See :class:`Written`."""
        return super().fits(lowering, module) and {
            module.q_norm, module.k_norm, module.v_norm, module.proj_norm
        } <= lowering.folded

    def write(self, x: Value) -> Layer:
        """See :class:`Written`."""
        graph = self.graph
        y = self.neuron(x)
        size = graph.node('Shape', y.first_name(), start=2)
        convs = [getattr(self, f'{n}_conv') for n in 'qkv']
        joined = all(isinstance(conv, WrittenRepConv) for conv in convs)
        parts = self.side_by_side(y, [conv.parts for conv in convs]) \
            if joined else [conv(y) for conv in convs]
        q, k, v = (
            heads_of(getattr(self, f'{n}_neuron')(part), self.heads)
            for n, part in zip('qkv', parts))
        kv = graph.node('MatMul', v.name,
                        graph.node('Transpose', k.name, perm=[0, 1, 3, 2]))
        y = self.exact_product(kv, q.name)
        size = graph.node(
            'Concat', graph.constant([0, self.channels], np.int64), size,
            axis=0)
        y = Value(graph, graph.node('Reshape', y, size), self.channels,
                  unit=self.scale * q.unit * k.unit * v.unit)
        if not self.lowering.integer:
            y.unit = 1.
            y = y.apply('Mul', graph.constant(self.scale, np.float32))
        return self.proj_conv(self.attn_neuron(y))

    def side_by_side(self, x: Value,
                     convs: list[tuple[Weights, ...]]) -> list[Value]:
        """q, k and v of three RepConvs as three convs and one product."""
        graph, channels = self.graph, self.channels
        firsts, middles, lasts = zip(*convs)
        for parts in (firsts, middles):
            x = self.lowering.layer(x, joined(parts)).real()
        y = graph.node('Reshape', x.first_name(), graph.constant(
            [0, 3, channels, -1], np.int64))
        weights = np.stack([w.float_weight()[:, :, 0, 0] for w in lasts])
        y = graph.node('MatMul', graph.constant(weights, np.float32), y)
        bias = np.stack([w.bias for w in lasts])[..., None]
        y = graph.node('Add', y, graph.constant(bias, np.float32))
        y = graph.node('Reshape', y, graph.constant(
            [0, 3 * channels, 1, -1], np.int64))
        parts = graph.node(
            'Split', y, graph.constant([channels] * 3, np.int64), outputs=3,
            axis=1)
        return [Value(graph, part, channels) for part in parts]

    def exact_product(self, kv: str, q: str) -> str:
        """kv q, in float64 if a sum could reach what float32 cannot hold."""
        graph, size = self.graph, self.lowering.size
        if not self.lowering.integer:
            return graph.node('MatMul', kv, q)
        bound = (size[0] // 16 + 1) * (size[1] // 16 + 1) * self.channels
        for name in 'qkv':
            bound *= getattr(self.of, f'{name}_neuron').levels
        if bound // self.heads < EXACT_FLOAT32:
            return graph.node('MatMul', kv, q)
        y = graph.node('MatMul', graph.node('Cast', kv, to=11),
                       graph.node('Cast', q, to=11))
        return graph.node('Cast', y, to=1)


# The first kind that fits; of others the own forward runs.
WRITERS: list[tuple[type, type[Written]]] = [
    (_ConvTransposeNd, WrittenDeconv),
    (_ConvNd, WrittenLayer),
    (nn.Linear, WrittenLayer),
    (SpikingNeuron, WrittenNeuron),
    (RepConv, WrittenRepConv),
    (SpikeAttention, WrittenAttention),
]


def layers_of(unit: RepConv) -> tuple[LSQWeight, LSQWeight, LSQWeight]:
    """Return the three convs of a RepConv."""
    return unit.pointwise1, unit.depthwise, unit.pointwise2


def without_border(first: Weights, middle: Weights,
                   last: Weights) -> tuple[Weights, Weights, Weights]:
    """Return the convs of a RepConv, the second with a border of zeros.

    See :class:`mmqsdt.deploy.fast.FastRepConv` for the algebra.
    """
    shift = middle.float_weight().sum((1, 2, 3)) * first.bias + middle.bias
    shift = last.float_weight()[:, :, 0, 0] @ shift
    return (replace(first, bias=np.zeros_like(first.bias), padding=(0, 0)),
            replace(middle, bias=np.zeros_like(middle.bias),
                    padding=first.padding),
            replace(last, bias=last.bias + shift))


def joined(parts: tuple[Weights, ...]) -> Weights:
    """Several layers side by side: of one map, or each of its own."""
    values = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ('codes', 'scale', 'bias')
    }
    groups = sum(p.groups for p in parts) if parts[0].groups > 1 else 1
    return replace(parts[0], groups=groups, follower='', **values)


def heads_of(x: Value, heads: int) -> Value:
    """Spikes as (B, heads, d, N), float32; counts stay counts."""
    shape = x.graph.constant([0, heads, x.channels // heads, -1], np.int64)
    name = x.graph.node('Reshape', x.first_name(), shape)
    if isinstance(x, Counts):
        name = x.graph.node('Cast', name, to=1)
    return x.like(name, unit=getattr(x, 'amplitude', 1.), last=False)


def whole_factor(module: nn.Module) -> nn.Upsample:
    """MMSegmentation's wrapper of upsampling, if by a whole factor."""
    factor = module.scale_factor
    if module.size or factor is None or factor != int(factor):
        raise unsupported('upsampling by other than whole factors')
    return nn.Upsample(None, int(factor), module.mode, module.align_corners)


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
