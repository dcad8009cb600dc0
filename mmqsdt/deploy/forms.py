"""One trained model, three equal forms: float, integer, spikes."""

from copy import deepcopy

from torch import nn

from ..layers import SpikeAttention, SpikingNeuron
from .fold import FoldedLayer, fold
from .spikes import SlotAttention, SlotNeuron, slot_weights
from .structure import find_layers


def to_integer(model: nn.Module) -> nn.Module:
    """A copy that computes on integers wherever spikes are read.

    Every LSQ weight is its integer code (int8) with one scale a channel,
    batch norms are folded into scale and bias, neurons emit integer counts.
    The integers travel in float32 (float64 where a sum could reach 2^24),
    so that every sum of codes times counts is exact.

    Args:
        model (nn.Module): A trained model or any part of one: a backbone,
            an ImageClassifier, a MaskRCNN, an EncoderDecoder. What is not
            spiking in it stays as it is. It is not changed.

    Returns:
        nn.Module: In eval mode, of the same class, with the same forward.

    Raises:
        ValueError: If the model is not a spiking one, or cannot be folded.
    """
    return _convert(model, 'count')


def to_spikes(model: nn.Module, encoding: str = 'thermometer') -> nn.Module:
    """A copy in which every layer that reads spikes reads binary ones.

    Every neuron emits binary slots for each time step; weights accumulate
    slot by slot, attention multiplies binary tensors, and scale, bias and
    norm act once, after the slots are summed. See :func:`describe` for the
    layers that read real values in this architecture.

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
    if encoding == 'count':
        raise ValueError("'count' is the integer form: use to_integer")
    slot_weights(1, encoding)
    return _convert(model, encoding)


# What tools offer as --inference.
FORMS = dict(float=lambda model: model, integer=to_integer, spikes=to_spikes)


def _convert(model: nn.Module, encoding: str) -> nn.Module:
    check_convertible(model)
    model = deepcopy(model).eval()
    layers = find_layers(model)
    replaced: dict[nn.Module, nn.Module] = {}
    for name, entry in layers.items():
        try:
            replaced[entry.layer] = fold(entry, encoding)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from None
        replaced.update((norm, nn.Identity()) for norm in entry.norms)
    neurons = {e.neuron for e in layers.values() if e.neuron is not None}
    for module in model.modules():
        if isinstance(module, SpikeAttention) and module.neuron in neurons:
            replaced[module] = SlotAttention(module, encoding)
            neurons.update(
                (module.q_neuron, module.k_neuron, module.v_neuron))
    for neuron in neurons:
        if neuron.amplitude != 1:  # now part of the scales
            neuron.amplitude = 1.
        if encoding != 'count':
            replaced[neuron] = SlotNeuron(neuron, encoding)
    return _replace(model, replaced)


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


def _replace(module: nn.Module,
             replaced: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put replacements in place, wherever in the tree a module stands."""
    module = replaced.get(module, module)
    if isinstance(module, SlotNeuron):
        return module
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _replace(child, replaced)
    return module
