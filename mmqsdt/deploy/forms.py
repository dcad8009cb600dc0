"""One trained model, three equal forms: float, integer, spikes."""

from collections.abc import Callable
from copy import deepcopy

from torch import nn

from ..layers import SpikeAttention, SpikingNeuron
from .fold import FoldedLayer, fold
from .spikes import ENCODINGS, SlotAttention, SlotNeuron
from .structure import WeightLayer, find_layers, unit_layers


def to_integer(model: nn.Module) -> nn.Module:
    """A copy that computes on integers wherever spikes are read.

    Every LSQ weight is its integer code (int8) with one scale a channel,
    batch norms are folded into scale and bias, neurons emit integer counts.
    The integers travel in float32 (float64 where a sum could reach 2^24),
    so that every sum of codes times counts is exact.

    Args:
        model (nn.Module): A trained model or any part of one: a backbone,
            an ImageClassifier, a MaskRCNN, an EncoderDecoder. What is not
            spiking in it stays as it is: stock necks and heads, and neurons
            outside the units that ``mmqsdt.deploy.structure`` knows. The
            model itself is not changed; it may be in training mode.

    Returns:
        nn.Module: In eval mode, of the same class, with the same forward;
        it records no gradients.

    Raises:
        ValueError: If the model is not a spiking one, is converted already,
            or cannot be folded.
    """
    return convert(model, 'count')


def to_spikes(model: nn.Module, encoding: str = 'thermometer') -> nn.Module:
    """A copy in which every layer that reads spikes reads binary ones.

    Every neuron emits binary slots for each time step; weights accumulate
    slot by slot, attention multiplies binary tensors, and scale, bias and
    norm act once, after the slots are summed. See :func:`describe` for the
    layers that read real values: in the published architecture the stem and
    the inner convs of RepConv and SepConv.

    Args:
        model (nn.Module): As in :func:`to_integer`.
        encoding (str): 'thermometer', D slots as published, or 'bitwise',
            ceil(log2(D + 1)) slots of weights 1, 2, 4, ...
            Defaults to 'thermometer'.

    Returns:
        nn.Module: As in :func:`to_integer`.

    Raises:
        ValueError: As in :func:`to_integer`, and for other encodings.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f'encoding must be one of {ENCODINGS}, got '
                         f'{encoding!r}')
    return convert(model, encoding)


def convert(
    model: nn.Module,
    encoding: str,
    fold: Callable[[WeightLayer, str], FoldedLayer] = fold
) -> nn.Module:
    """A copy with folded layers, norms gone, and neurons that emit counts.

    Args:
        model (nn.Module): As in :func:`to_integer`.
        encoding (str): See :func:`slot_weights`.
        fold (Callable): Makes the inference form of a layer.

    Raises:
        ValueError: As in :func:`to_integer`.
    """
    check_convertible(model)
    model = deepcopy(model)
    layers = find_layers(model)
    replaced: dict[nn.Module, nn.Module] = {}
    for name, entry in layers.items():
        try:
            replaced[entry.layer] = fold(entry, encoding)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from None
        replaced.update((norm, nn.Identity()) for norm in entry.norms)
    neurons = {e.neuron for e in layers.values() if e.neuron is not None}
    if not neurons:
        raise ValueError('no weight layer of this model reads spikes, as far '
                         'as mmqsdt.deploy.structure knows its units')
    check_readers(model, neurons)
    for module in model.modules():
        if isinstance(module, SpikeAttention) and module.neuron in neurons:
            replaced[module] = SlotAttention(module, encoding)
            neurons.update(
                (module.q_neuron, module.k_neuron, module.v_neuron))
    for neuron in neurons:
        if neuron.amplitude != 1:  # now part of the scales; LIF's is fixed
            neuron.amplitude = 1.
        if encoding != 'count':
            replaced[neuron] = SlotNeuron(neuron, encoding)
    return replace_modules(model, replaced).eval().requires_grad_(False)


def check_convertible(model: nn.Module) -> None:
    """Refuse what has no integer and no spike form.

    Raises:
        ValueError: If there is no spiking neuron, or the model is converted
            already.
    """
    modules = list(model.modules())
    if any(isinstance(m, FoldedLayer) for m in modules):
        raise ValueError('this model is in integer or spike form already; '
                         'convert the model it was made from')
    if not any(isinstance(m, SpikingNeuron) for m in modules):
        raise ValueError(
            'not a spiking model: it has no neuron such as IELIF, only '
            "activations. Build it with neuron=dict(type='mmqsdt.IELIF'); an "
            'ANN counterpart has a float form only')


def check_readers(model: nn.Module, neurons: set[SpikingNeuron]) -> None:
    """Refuse neurons whose spikes something else would read as well.

    It would get counts, or slots, for spikes of the neuron's amplitude.

    Raises:
        ValueError: If one of these neurons also stands outside known units.
    """
    for name, module in model.named_modules():
        shared = neurons.intersection(module.children())
        if shared and not unit_layers(module):
            child = next(k for k, v in module.named_children() if v in shared)
            path = f'{name}.{child}'.removeprefix('.')
            raise ValueError(
                f'{path} is the neuron of a unit too; what reads it here '
                'would get counts for spikes. Give it a neuron of its own')


def replace_modules(module: nn.Module,
                    replaced: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put replacements in place, wherever in the tree a module stands."""
    module = replaced.get(module, module)
    if isinstance(module, SlotNeuron):
        return module
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = replace_modules(child, replaced)
    return module
