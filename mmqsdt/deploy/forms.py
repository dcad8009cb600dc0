"""One trained model, three equal forms: float, integer, spikes."""

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

from mmengine.logging import print_log
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..layers import IELIF, SpikingNeuron
from .describe import Description, describe_program
from .flow import Tracer
from .fold import FoldedLayer, FoldedNorm, fold
from .products import ProductHook
from .program import Program, WeightLayer, follow
from .spikes import ENCODINGS, SlotAttention, SlotNeuron


def to_integer(model: nn.Module, inputs=None) -> nn.Module:
    """Copy a model so that it computes on integers wherever spikes are read.

    Every LSQ weight is its integer code (int8) with one scale a channel,
    batch norms are folded into scale and bias, neurons emit integer counts.
    The integers travel in float32 (float64 where a sum could reach 2^24),
    so that every sum of codes times counts is exact.

    Args:
        model (nn.Module): A trained model or any part of one: a backbone,
            an ImageClassifier, a MaskRCNN, an EncoderDecoder, a network of
            your own. What reads real values with float weights stays as it
            is. The model itself is not changed; it may be in training mode.
        inputs (Tensor | tuple | dict, optional): What its forward is given
            to see which layers read spikes; see :func:`trace`. By default
            an image of noise.

    Returns:
        nn.Module: In eval mode, of the same class, with the same forward;
        it records no gradients.

    Raises:
        ValueError: If the model is not a spiking one, is converted already,
            or cannot be folded.
    """
    return convert(model, 'count', inputs)


def to_spikes(model: nn.Module,
              encoding: str = 'thermometer',
              inputs=None) -> nn.Module:
    """Copy a model so that every layer that reads spikes reads binary ones.

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
        inputs (optional): As in :func:`to_integer`.

    Returns:
        nn.Module: As in :func:`to_integer`.

    Raises:
        ValueError: As in :func:`to_integer`, and for other encodings.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f'encoding must be one of {ENCODINGS}, got '
                         f'{encoding!r}')
    return convert(model, encoding, inputs)


def convert(
    model: nn.Module,
    encoding: str,
    inputs=None,
    fold: Callable[[WeightLayer, str], FoldedLayer] = fold,
    fuse: Callable[[Program, dict[nn.Module, nn.Module]], None] | None = None,
    program: Program | None = None,
) -> nn.Module:
    """Copy a model with norms folded into layers and neurons of counts.

    Args:
        model (nn.Module): As in :func:`to_integer`.
        encoding (str): See :func:`slot_weights`.
        inputs (optional): As in :func:`to_integer`.
        fold (Callable): Makes the inference form of a layer.
        fuse (Callable, optional): Changes what takes the place of which
            module.
        program (Program, optional): Of this model, if it is known.

    Raises:
        ValueError: As in :func:`to_integer`.
    """
    check_convertible(model)
    copied = deepcopy(model).eval()
    # What stands for a module of the program in the copy.
    copies = dict(zip(model.modules(), copied.modules()))
    if program is None:
        program = Program(copied, follow(Tracer(copied), inputs))
        copies = {module: module for module in copied.modules()}
    entries = [e for e in program.layers.values() if e.convertible]
    if not any(e.spikes for e in program.layers.values()):
        raise ValueError('no weight layer of this model reads spikes; '
                         'mmqsdt.deploy.describe says what each reads, and '
                         'why')
    replaced: dict[nn.Module, nn.Module] = {}
    for entry in entries:
        try:
            replaced[entry.layer] = fold(entry, encoding)
        except ValueError as error:
            raise ValueError(f'{entry.name}: {error}') from None
        replaced.update((norm, nn.Identity()) for norm in entry.norms)
    for unit in program.attentions.values():
        replaced[unit] = SlotAttention(copies[unit], encoding)
    if fuse is None:  # else their places may be gone
        watch_norms(program, replaced, copied)
    for neuron in program.counting:
        counting = counting_neuron(copies[neuron])
        replaced[neuron] = SlotNeuron(counting, encoding) \
            if encoding != 'count' and neuron in program.slotting \
            else counting
    if fuse is not None:
        fuse(program, replaced)
    watch_the_rest(program, copies)
    copied = replace_modules(
        copied, {copies[old]: new for old, new in replaced.items()})
    standing = set(copied.modules())
    for old in replaced:
        if copies[old] not in standing:
            copies[old].register_forward_pre_hook(Refusal(
                f'{program.paths[old]} is called past its place in the model, '
                'from a plain list or a function, so nothing can stand in for '
                'it; hold it in an nn.ModuleList, or as an attribute alone'))
    keep_description(copied, describe_program(program))
    if encoding != 'count' and any(
            product.scope not in program.attentions
            for product in program.products.values()):
        ProductHook(encoding).attach(copied)
    return copied.eval().requires_grad_(False)


def keep_description(model: nn.Module, rows: Description) -> None:
    """Have a model and its parts know what they were when float."""
    for path, module in model.named_modules():
        inside = f'{path}.' if path else ''
        module._description = [
            replace(row, name=row.name.removeprefix(inside)) for row in rows
            if row.name.startswith(inside)]


def counting_neuron(neuron: SpikingNeuron) -> SpikingNeuron:
    """Make the same neuron with amplitude 1: it emits counts."""
    if neuron.amplitude == 1:
        return neuron
    if type(neuron) is IELIF:
        return IELIF(
            neuron.levels, float(neuron.threshold), 1., neuron.leak,
            neuron.time_steps, neuron.rounding)
    neuron = deepcopy(neuron)
    neuron.amplitude = 1.
    return neuron


@dataclass
class Refusal:
    """A hook for modules that must not run in this form."""
    text: str

    def __call__(self, module: nn.Module, args: tuple) -> None:
        raise ValueError(self.text)


def watch_norms(program: Program, replaced: dict[nn.Module, nn.Module],
                model: nn.Module) -> None:
    """Have a model say if it went past a norm that is part of a layer."""
    gone = {getattr(unit, f'{name}_norm') for name in ('q', 'k', 'v', 'proj')
            for unit in program.attentions.values()}
    layers = []
    for entry in program.layers.values():
        for norm in set(entry.norms) & replaced.keys() - gone:
            replaced[norm] = FoldedNorm(replaced[entry.layer])
            layers.append(replaced[entry.layer])
    if layers:
        model.register_forward_pre_hook(NormsDue(layers, True))
        model.register_forward_hook(NormsDue(layers))


@dataclass
class NormsDue:
    """A hook for a model with norms that are part of layers."""
    layers: list[FoldedLayer]
    begin: bool = False

    def __call__(self, *_) -> None:
        for layer in self.layers:
            if layer.due and not self.begin:
                raise ValueError(
                    f'{layer.name} is not followed by its norm any more, as '
                    'it was when the model was traced: its output takes '
                    'another way; convert the model with inputs= that take '
                    'it')
            layer.due = 0


def watch_the_rest(program: Program,
                   copies: dict[nn.Module, nn.Module]) -> None:
    """Say which layers stay as they are although they read spikes."""
    for module, path in program.paths.items():
        if module not in program.calls and isinstance(
                module, (_ConvNd, nn.Linear, SpikingNeuron)):
            copies[module].register_forward_pre_hook(Refusal(
                f'{path} did not run when the model was traced, so it is not '
                'known who reads spikes of whom; convert the model with '
                'inputs= on which it runs'))
    left = [f'{entry.name} ({entry.obstacle})'
            for entry in program.layers.values() if entry.stays]
    if left:
        print_log(
            f'read spikes, but stay as they are: {", ".join(left)}',
            'current', logging.WARNING)
    if program.branches:
        print_log(program.told_branches(), 'current', logging.WARNING)


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
