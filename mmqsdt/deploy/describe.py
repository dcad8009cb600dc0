"""Layer by layer: what reads spikes, what reads real values."""

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..layers import LSQWeight, SpikeAttention, SpikingNeuron
from .fold import FoldedConv2d, FoldedLayer
from .spikes import SlotProduct
from .structure import find_layers


@dataclass
class LayerDescription:
    """One layer that multiplies or accumulates.

    Attributes:
        name (str): Path in the model.
        kind (str): E.g. 'conv 3x3', 'depthwise 7x7', 'linear', 'q (k^T v)'.
        reads (str): 'spike' or 'real'.
        levels (int, optional): D of the spikes it reads.
        bits (int, optional): Of its weights, 32 for float ones; None if it
            has none.
        operation (str): 'AC' if it reads spikes, else 'MAC'.
    """
    name: str
    kind: str
    reads: str
    levels: int | None
    bits: int | None
    operation: str


class Description(list):
    """A list of :class:`LayerDescription` that prints as a table."""

    def __str__(self) -> str:
        width = max((len(d.name) for d in self), default=5)
        lines = [f'{"layer":{width}}  {"kind":14}  reads  bits  operation']
        lines += [
            f'{d.name:{width}}  {d.kind:14}  {d.reads:5}  '
            f'{"-" if d.bits is None else d.bits:>4}  {d.operation}'
            for d in self
        ]
        spikes = sum(d.reads == 'spike' for d in self)
        lines.append(f'{spikes} layers read spikes, {len(self) - spikes} '
                     'read real values')
        return '\n'.join(lines)


def layer_kind(layer: nn.Module) -> str:
    """E.g. 'conv 3x3', 'depthwise 7x7', 'linear'."""
    if isinstance(layer, (_ConvNd, FoldedConv2d)):
        size = 'x'.join(str(k) for k in layer.weight.shape[2:])
        depthwise = layer.groups > 1 and layer.weight.shape[1] == 1
        transposed = getattr(layer, 'transposed', False)
        name = 'deconv' if transposed else \
            'depthwise' if depthwise else 'conv'
        return f'{name} {size}'
    return 'linear'


def describe(model: nn.Module) -> Description:
    """List every layer of a model, in any form, by what it reads.

    Spikes are read by most layers. Real values are read by the stem (the
    image), by the depthwise and the second 1x1 conv of RepConv and by the
    last 1x1 conv of SepConv unless the backbone has ``inner_neurons=True``,
    by whatever stands outside the units of ``mmqsdt.layers``, and by stock
    heads.

    Args:
        model (nn.Module): A whole model or a part; float, integer or spike
            form.

    Returns:
        Description: A list of :class:`LayerDescription`, printable.
    """
    trained = find_layers(model)
    rows = Description()
    products = {}  # the neuron behind attention -> row of its product
    for name, module in model.named_modules():
        if isinstance(module, FoldedLayer):
            levels = module.levels
        elif isinstance(module, LSQWeight):
            neuron = trained[name].neuron
            levels = None if neuron is None else neuron.levels
        elif isinstance(module, (_ConvNd, nn.Linear)):
            levels = None
        elif isinstance(module, SlotProduct):
            rows.append(_product(name, module.levels[0]))
            continue
        elif isinstance(module, SpikeAttention) and isinstance(
                module.q_neuron, SpikingNeuron):
            products[module.attn_neuron] = _product(
                f'{name}.product'.removeprefix('.'), module.q_neuron.levels)
            continue
        elif module in products:
            rows.append(products[module])
            continue
        else:
            continue
        spikes = levels is not None
        rows.append(
            LayerDescription(name, layer_kind(module),
                             'spike' if spikes else 'real', levels,
                             getattr(module, 'bits', None) or 32,
                             'AC' if spikes else 'MAC'))
    return rows


def _product(name: str, levels: int) -> LayerDescription:
    return LayerDescription(name, 'q (k^T v)', 'spike', levels, None, 'AC')
