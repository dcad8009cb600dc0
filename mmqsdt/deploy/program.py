"""What a model computes at inference, as found by following its values.

For each layer with weights: whose spikes it reads, in which unit, which
norms follow it and it alone, which neuron reads nothing but it. Every back
end (integer and spike form, integer kernels), the description and the energy
report start from this.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..layers import BatchNormPad, LSQWeight, SpikeAttention, SpikingNeuron
from .flow import Tracer, Value
from .inputs import run_example
from .operations import (
    OPERATIONS,
    Rule,
    Spikes,
    cast,
    end,
    join,
    joined,
    keep,
)

# Operations that do not care how many images a tensor seems to have.
ELEMENT_BY_ELEMENT = {'clone', 'contiguous', 'detach', 'double', 'float',
                      'half', 'relu', 'to'}


@dataclass(eq=False)
class WeightLayer:
    """A layer with weights, and what stands before and behind it.

    Attributes:
        layer (nn.Module): The conv or linear layer.
        spikes (Spikes, optional): What it reads; None for real values.
        norms (tuple[nn.Module]): Batch norms behind it that read nothing
            else, in order, each a ``_BatchNorm`` or a :class:`BatchNormPad`.
        unit (float): What one spike is in the tensor that it reads in
            integer or spike form.
        encoded (bool): Whether that tensor comes in slots.
        name (str): Path in the model.
        source (str): Paths of the neurons.
        obstacle (str): Why nothing else can take its place; '' if it can.
        inputs (list[Value]): What it read, at each call; none if it did not
            run.
        follower (SpikingNeuron, optional): The one neuron that reads the
            layer behind its norms, if nothing else does and it reads nothing
            else.
    """
    layer: nn.Module
    spikes: Spikes | None = None
    norms: tuple[nn.Module, ...] = ()
    unit: float = 1.
    encoded: bool = True
    name: str = ''
    source: str = ''
    obstacle: str = ''
    inputs: list[Value] = field(default_factory=list)
    follower: SpikingNeuron | None = None

    @property
    def neuron(self) -> SpikingNeuron | None:
        """Whose spikes it reads, if it is one neuron alone."""
        neurons = self.spikes.neurons if self.spikes else ()
        return neurons[0] if len(neurons) == 1 else None

    @property
    def bits(self) -> int | str | None:
        """Of its weights; None for float ones."""
        return getattr(self.layer, 'bits', None)

    @property
    def stays(self) -> bool:
        """Whether it reads spikes, and yet stays as it is."""
        return bool(self.obstacle) and any(
            value.spikes is not None for value in self.inputs)

    @property
    def convertible(self) -> bool:
        """Whether it has codes or reads spikes, and can be rebuilt."""
        return not self.obstacle and bool(self.inputs) and (
            isinstance(self.layer, LSQWeight) or self.spikes is not None)


class Program:
    """What one run of a model showed; see :func:`trace`.

    Args:
        model (nn.Module): Whose modules are meant.
        tracer (Tracer): That has followed a run.

    Attributes:
        layers (dict[str, WeightLayer]): Every layer with weights by its
            path, in the order of the model.
        products (dict[str, Product]): Products of spikes by a name of their
            own.
        order (list[str]): Layers and products as they ran.
        counting (set[SpikingNeuron]): Neurons of which nothing would notice
            that they put out counts instead of amplitude * count.
        slotting (set[SpikingNeuron]): Those that could put out slots too.
        attentions (dict[str, SpikeAttention]): Attentions by path between
            whose neurons and products nothing else stands.
        calls, obstacles, branches: See :class:`Tracer`.
        paths (dict[nn.Module, str]): Of every module.
    """

    def __init__(self, model: nn.Module, tracer: Tracer) -> None:
        self.calls, self.obstacles = tracer.calls, tracer.obstacles
        self.branches = tracer.branches
        self.paths = {m: path for path, m in model.named_modules()}
        self.products = tracer.named_products()
        names = {product: name for name, product in self.products.items()}
        self.order = [names.get(x) or self.paths[x] for x in tracer.order]
        self.layers: dict[str, WeightLayer] = {}
        for path, module in model.named_modules():
            if isinstance(module, (_ConvNd, nn.Linear)):
                self.layers[path] = self._read(path, module)
        self._entries = {e.layer: e for e in self.layers.values()}
        norms = {n for e in self.layers.values() for n in e.norms}
        self.attentions = {
            path: m for path, m in model.named_modules()
            if isinstance(m, SpikeAttention) and m not in self.obstacles
            and all(isinstance(getattr(m, f'{n}neuron'), SpikingNeuron)
                    for n in ('', 'q_', 'k_', 'v_', 'attn_'))
            and norms.issuperset((m.q_norm, m.k_norm, m.v_norm, m.proj_norm))}
        self.counting = {m for m in self.calls.keys() - self.obstacles.keys()
                         if isinstance(m, SpikingNeuron)}
        self.slotting = set(self.counting)
        while self._shrink():
            pass
        for entry in self.layers.values():
            self._settle(entry)

    # Layers.

    def _read(self, path: str, layer: nn.Module) -> WeightLayer:
        """Return what a layer reads, and what alone reads it."""
        made = self.calls.get(layer, [])
        entry = WeightLayer(layer, name=path,
                            obstacle=self.obstacles.get(layer, ''),
                            inputs=[value.sources[0] for value in made])
        if made:
            spikes = joined([value.spikes for value in entry.inputs])
            if spikes is not None and spikes.neurons and not entry.obstacle:
                entry.spikes = replace(spikes, product=None)
                entry.source = self.source(spikes)
        norms = []
        while (found := self._sole_reader(made)) is not None \
                and found not in self.obstacles \
                and _can_fold(found, entry, made, norms):
            norms.append(found)
            made = self.calls[found]
        entry.norms = tuple(norms)
        if isinstance(found, SpikingNeuron):
            entry.follower = found
        return entry

    def _sole_reader(self, made: list[Value]) -> nn.Module | None:
        """Return the module that alone reads these values, and no others."""
        readers = []
        for value in made:
            if value.hidden or len(value.readers) != 1:
                return None
            readers += value.readers
        modules = {reader.module for reader in readers}
        if len(modules) != 1:
            return None
        module = modules.pop()
        return module if self.calls.get(module, []) == readers else None

    def why(self, entry: WeightLayer) -> str:
        """From where the real values come that a layer reads."""
        if not entry.inputs:
            return 'did not run'
        if entry.spikes is not None:
            return ''
        if entry.stays:
            return f'spikes, but {entry.obstacle}'
        values = [value for value in entry.inputs if value.spikes is None]
        if values and len(values) < len(entry.inputs):
            return 'spikes at one call, not at another'
        if not values:
            unbounded = [v for v in entry.inputs if not v.spikes.bounded]
            return self.reason(unbounded[0]) if unbounded else \
                'spikes of different amplitudes at its calls'
        return self.reason(values[0])

    def reason(self, value: Value) -> str:
        """Find what made a value real: where spikes ended, if near."""
        while _is_moved(value):
            value = value.sources[0]
        near = [value]
        for each in near:  # grows
            real = [s for s in each.sources if s.spikes is None]
            if _is_moved(each):
                near += [s for s in each.sources[:1] if s not in near]
                continue
            if each.module not in self._entries and any(
                    s.spikes and s.spikes.bounded for s in each.sources) \
                    and (each.note or not (real and rule_of(each) is join)):
                where = f' in {each.scope}' if each.scope else ''
                return f'{each.step}{each.note} of spikes{where}'
            if each.module is None and each.scope == value.scope:
                near += [s for s in real if s not in near]
        if value.module is not None:
            return f'{value.step} {self.paths[value.module]}'
        return f'{value.step} in {value.scope}' if value.scope else value.step

    # Who reads the spikes of a neuron.

    def _shrink(self) -> bool:
        """Take out neurons that something else reads; whether any was."""
        before = len(self.counting), len(self.slotting), len(self.attentions)
        self.counting = {n for n in self.counting
                         if all(map(self._is_counted, self.calls[n]))}
        self.slotting = {n for n in self.slotting & self.counting
                         if all(map(self._is_direct, self.calls[n]))}
        for entry in self.layers.values():
            if entry.spikes is None or not entry.convertible:
                continue
            neurons = set(entry.spikes.neurons)
            if not neurons <= self.counting or \
                    len({n.amplitude for n in neurons}) > 1:
                self.counting -= neurons
            if not neurons <= self.slotting or \
                    len({n.levels for n in neurons}) > 1:
                self.slotting -= neurons
        for path, unit in list(self.attentions.items()):
            if not {unit.q_neuron, unit.k_neuron, unit.v_neuron} \
                    <= self.slotting:
                del self.attentions[path]
        return before != (len(self.counting), len(self.slotting),
                          len(self.attentions))

    def _is_counted(self, value: Value) -> bool:
        """Whether all that reads a value can be told of its unit."""
        return not value.hidden and all(
            self._is_told(reader) or _is_kept(reader)
            and self._is_counted(reader) for reader in value.readers)

    def _is_direct(self, value: Value) -> bool:
        """Whether layers read a value as it is, or attention does."""
        return not value.sized and all(
            self._is_told(reader) or _is_kept(reader) and (
                reader.step in ELEMENT_BY_ELEMENT
                or reader.scope in self.attentions)
            and self._is_direct(reader) for reader in value.readers)

    def _is_told(self, reader: Value) -> bool:
        """Whether a value was made by a layer that is converted as one that
        reads spikes, or by the product of an attention that is."""
        entry = self._entries.get(reader.module)
        if entry is not None:
            return entry.spikes is not None and entry.convertible
        return reader.scope in self.attentions and reader.spikes is not None \
            and not reader.spikes.bounded and not _is_kept(reader)

    def _settle(self, entry: WeightLayer) -> None:
        """In which unit a layer reads its spikes."""
        if entry.spikes is None:
            return
        neurons = entry.spikes.neurons
        entry.unit = entry.spikes.amplitude
        if set(neurons) <= self.counting:
            entry.unit = entry.unit / neurons[0].amplitude
        entry.encoded = set(neurons) <= self.slotting

    # For people.

    def source(self, spikes: Spikes) -> str:
        """Paths of the neurons."""
        return ', '.join(self.paths[n] or type(n).__name__
                         for n in spikes.neurons)

    def told_branches(self) -> str:
        """Where a user's own Python read values."""
        where = ', '.join(f'{path or "the model"} ({step})'
                          for path, step in self.branches.items())
        return (f'Python reads values in {where}: other inputs may go other '
                'ways, so norms and amplitudes there stay as they are')

    def explain(self, layer: str) -> str:
        """How the values that a layer reads came about, step by step.

        Args:
            layer (str): Path of a conv or linear layer.

        Raises:
            KeyError: If there is no such layer.
        """
        if layer not in self.layers:
            raise KeyError(f'{layer!r} is no conv or linear layer of this '
                           'model; mmqsdt.deploy.describe lists them')
        entry = self.layers[layer]
        if entry.spikes is not None:
            head = (f'reads spikes of {entry.source}, amplitude '
                    f'{entry.spikes.amplitude:g}, 0 to {entry.spikes.levels}')
        else:
            head = f'reads real values: {self.why(entry)}'
        lines = [f'{layer} {head}']
        for value in dict.fromkeys(entry.inputs[:1]):
            self._tell(value, lines, 1)
        return '\n'.join(lines)

    def _tell(self, value: Value, lines: list[str], depth: int) -> None:
        """Add a value and its origins, down to neurons and layers."""
        name = self.paths[value.module] if value.module else value.scope
        text = f'{"  " * depth}{value.step}{value.note}'
        text += (f' {name}' if value.module else f' in {name}') if name else ''
        if value.spikes is not None:
            text += ' -> spikes' if value.spikes.bounded else ' -> counts'
        lines.append(text)
        if isinstance(value.module, (SpikingNeuron, _ConvNd, nn.Linear)):
            return
        for source in value.sources:
            if source.step not in ('parameter', 'constant'):
                self._tell(source, lines, depth + 1)


def trace(model: nn.Module, inputs=None) -> Program:
    """Run a model once, in evaluation, and see what its layers read.

    Args:
        model (nn.Module): In float form. It stays as it is.
        inputs (Tensor | tuple | dict, optional): Given to its forward. By
            default an image of noise, or whatever else its first layer
            takes.

    Raises:
        ValueError: If there are no inputs and none could be guessed.
    """
    copied = deepcopy(model).eval()
    originals = dict(zip(copied.modules(), model.modules()))
    return Program(model, follow(Tracer(copied, originals), inputs))


def follow(tracer: Tracer, inputs=None) -> Tracer:
    """Run the model of a tracer, which may settle its step sizes.

    Args:
        tracer (Tracer): Of a model in eval mode.
        inputs (optional): See :func:`trace`.
    """
    model = tracer.model
    # What a model draws by chance, it draws as if this had not been.
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        if inputs is None:
            run_example(model, tracer.call)
        elif isinstance(inputs, Mapping):
            tracer.call(model, **inputs)
        elif isinstance(inputs, (tuple, list)):
            tracer.call(model, *inputs)
        else:
            tracer.call(model, inputs)
    return tracer


def find_layers(model: nn.Module, inputs=None) -> dict[str, WeightLayer]:
    """Every layer with weights by its path; see :func:`trace`."""
    return trace(model, inputs).layers


def rule_of(value: Value) -> Rule:
    """Say what the operation that made a value does with spikes."""
    return OPERATIONS.get(value.step, (end, ()))[0]


def _is_moved(value: Value) -> bool:
    """Whether an operation did no more than move what is no spikes."""
    return rule_of(value) in (keep, cast) and value.module is None and \
        bool(value.sources) and not (
            value.sources[0].spikes and value.sources[0].spikes.bounded)


def _is_kept(reader: Value) -> bool:
    """Whether spikes went through an operation as spikes."""
    return reader.module is None and reader.spikes is not None \
        and reader.spikes.factors == 1


def _can_fold(norm: nn.Module, entry: WeightLayer, made: list[Value],
              before: list[nn.Module]) -> bool:
    """Whether a norm behind a layer is a gain and a shift per channel."""
    if entry.obstacle:
        return False
    if isinstance(norm, BatchNormPad):
        layer = entry.layer
        return not before and isinstance(layer, _ConvNd) and (
            layer.bias is None and set(layer.kernel_size) == {1}
            and set(layer.stride) == {1} and set(layer.padding) == {0})
    axes = entry.layer.weight.dim()  # features last, in a batch; or a map's
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None \
        and all(value.dim == axes for value in made)
