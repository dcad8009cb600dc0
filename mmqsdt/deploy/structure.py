"""Which layer reads whose spikes: told by the class of a unit.

Everything in this package works on what :func:`find_layers` finds. A new
kind of unit becomes known here, with one more ``@unit_layers.register``.
"""

from dataclasses import dataclass
from functools import singledispatch

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import (
    BatchNormPad,
    ConvUnit,
    LSQWeight,
    RepConv,
    SepConv,
    SpikeAttention,
    SpikingNeuron,
)


@dataclass
class WeightLayer:
    """A layer with weights, and what stands before and behind it.

    Attributes:
        layer (LSQWeight): The conv or linear layer.
        neuron (SpikingNeuron, optional): Whose spikes it reads; None if its
            input is real-valued.
        norms (tuple[nn.Module]): Batch norms behind it, in order, each of
            them a ``_BatchNorm`` or a :class:`BatchNormPad`.
    """
    layer: LSQWeight
    neuron: SpikingNeuron | None = None
    norms: tuple[nn.Module, ...] = ()


def _spiking(neuron: nn.Module | None) -> SpikingNeuron | None:
    """The neuron, if it is one and not an activation such as ReLU."""
    return neuron if isinstance(neuron, SpikingNeuron) else None


def _batch_norms(*norms: nn.Module | None) -> tuple[nn.Module, ...]:
    """Those that can be folded, up to the first that cannot."""
    folded = []
    for norm in norms:
        if not isinstance(norm, (_BatchNorm, BatchNormPad)):
            break
        folded.append(norm)
    return tuple(folded)


@singledispatch
def unit_layers(unit: nn.Module) -> list[WeightLayer]:
    """The weight layers of a unit in order, [] if it is none known."""
    # A neuron and the linear layer it feeds, as SpikeLinearClsHead has them;
    # told by what it holds, because it can be MMPretrain's class only.
    neuron = _spiking(getattr(unit, 'neuron', None))
    linear = getattr(unit, 'fc', None)
    if neuron is not None and isinstance(linear, LSQWeight):
        return [WeightLayer(linear, neuron)]
    return []


@unit_layers.register
def _conv_unit(unit: ConvUnit) -> list[WeightLayer]:
    return [
        WeightLayer(unit.conv, _spiking(unit.neuron), _batch_norms(unit.norm))
    ]


@unit_layers.register
def _sep_conv(unit: SepConv) -> list[WeightLayer]:
    return [
        *unit_layers(unit.expand),
        WeightLayer(unit.depthwise, _spiking(unit.neuron),
                    _batch_norms(unit.inner_norm)),
        WeightLayer(unit.project, _spiking(unit.inner_neuron),
                    _batch_norms(unit.norm)),
    ]


@unit_layers.register
def _rep_conv(unit: RepConv,
              neuron: SpikingNeuron | None = None,
              norm: nn.Module | None = None) -> list[WeightLayer]:
    return [
        WeightLayer(unit.pointwise1, neuron, (unit.norm_pad, )),
        WeightLayer(unit.depthwise, _spiking(unit.inner_neuron1),
                    _batch_norms(unit.inner_norm)),
        WeightLayer(unit.pointwise2, _spiking(unit.inner_neuron2),
                    _batch_norms(unit.norm, norm)),
    ]


@unit_layers.register
def _spike_attention(unit: SpikeAttention) -> list[WeightLayer]:
    if _spiking(unit.neuron) is None:
        return []
    return [
        *_rep_conv(unit.q_conv, unit.neuron, unit.q_norm),
        *_rep_conv(unit.k_conv, unit.neuron, unit.k_norm),
        *_rep_conv(unit.v_conv, unit.neuron, unit.v_norm),
        *_rep_conv(unit.proj_conv, unit.attn_neuron, unit.proj_norm),
    ]


def _known_kind(unit: nn.Module) -> type:
    """The registered class of a unit; object if its class tells nothing."""
    return next(c for c in type(unit).__mro__ if c in unit_layers.registry)


def find_layers(model: nn.Module) -> dict[str, WeightLayer]:
    """Every LSQ layer of a model by its path, in the order of the model.

    LSQ layers outside any known unit count as reading real values.

    Raises:
        ValueError: If two units share a layer but not what surrounds it, or
            a unit has a forward of its own.
    """
    found: dict[nn.Module, WeightLayer] = {}

    def visit(module: nn.Module, seen: set[nn.Module]) -> None:
        if module in seen:
            return
        seen.add(module)
        kind, entries = _known_kind(module), unit_layers(module)
        for entry in entries:
            known = found.setdefault(entry.layer, entry)
            if known != entry:
                raise ValueError(
                    f'a {type(module).__name__} shares a weight layer with '
                    'another unit, but not its neuron and norms: they cannot '
                    'be folded into one scale')
        # A head has units beside its linear layer; an attention without
        # neurons is none itself.
        if kind is object or not entries:
            for child in module.children():
                visit(child, seen)
        elif type(module).forward is not kind.forward:
            raise ValueError(
                f'{type(module).__name__} is a {kind.__name__} with a '
                'forward of its own, of which it is not known what its '
                'layers read; tell it by mmqsdt.deploy.structure.unit_layers.'
                'register, or derive it from nn.Module')

    visit(model, set())
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, LSQWeight):
            layers[name] = found.get(module, WeightLayer(module))
    return layers
