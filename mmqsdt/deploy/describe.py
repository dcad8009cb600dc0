"""What every layer of a model reads, and from where."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.conv import _ConvNd

from .operations import Product
from .program import Program, WeightLayer, trace


@dataclass
class LayerDescription:
    """One layer that multiplies or accumulates.

    Attributes:
        name (str): Path in the model.
        kind (str): E.g. 'conv 3x3', 'depthwise 7x7', 'linear', 'q (k^T v)'.
        reads (str): 'spike' or 'real'.
        levels (int, optional): D of the spikes it reads.
        bits (int | str, optional): Of its weights, 32 for float ones;
            'ternary'; None if it has none.
        operation (str): 'AC' if it reads spikes, else 'MAC'.
        source (str): Paths of the neurons whose spikes it reads; or what
            made the real values that it reads.
    """
    name: str
    kind: str
    reads: str
    levels: int | None
    bits: int | str | None
    operation: str
    source: str = field(default='', compare=False)


class Description(list):
    """A list of :class:`LayerDescription` that prints as a table.

    Attributes:
        notes (list[str]): What there is to say of the whole.
    """

    notes: Sequence[str] = ()

    def __str__(self) -> str:
        names = max((len(d.name) for d in self), default=5)
        kinds = max((len(d.kind) for d in self), default=4)
        # As wide as the word needs to be.
        bits = max([4, *(len(str(d.bits)) for d in self if d.bits)])
        lines = [f'{"layer":{names}}  {"kind":{kinds}}  reads  '
                 f'{"bits":>{bits}}  operation  from']
        lines += [
            f'{d.name:{names}}  {d.kind:{kinds}}  {d.reads:5}  '
            f'{"-" if d.bits is None else d.bits:>{bits}}  {d.operation:9}  '
            f'{d.source}'.rstrip() for d in self
        ]
        spikes = sum(d.reads == 'spike' for d in self)
        lines.append(f'{spikes} layers read spikes, {len(self) - spikes} '
                     'read real values')
        lines += self.notes
        return '\n'.join(lines)


def layer_kind(layer: nn.Module) -> str:
    """E.g. 'conv 3x3', 'depthwise 7x7', 'linear'."""
    if not isinstance(layer, _ConvNd):
        return 'linear'
    size = 'x'.join(str(k) for k in layer.weight.shape[2:])
    depthwise = layer.groups > 1 and layer.weight.shape[1] == 1
    name = 'deconv' if layer.transposed else \
        'depthwise' if depthwise else 'conv'
    return f'{name} {size}'


def describe(model: nn.Module, inputs=None) -> Description:
    """List every layer of a model, in any form, by what it reads.

    A float model runs once, and every value in it is followed from the
    neurons on; see ``mmqsdt.deploy.operations.TABLE`` for what keeps spikes
    spikes. A layer that did not run, such as one that only a training
    needs, counts as reading real values. Products of spikes that are no
    layers, as in attention, have a row of their own.

    In the published architecture real values are read by the stem (the
    image), by the depthwise and the second 1x1 conv of RepConv and by the
    last 1x1 conv of SepConv unless the backbone has ``inner_neurons=True``.

    Args:
        model (nn.Module): A whole model or a part; float, integer or spike
            form.
        inputs (Tensor | tuple | dict, optional): What the forward of a
            float model is given. By default an image of noise, or whatever
            else its first layer takes.

    Returns:
        Description: A list of :class:`LayerDescription`, printable.

    Raises:
        ValueError: If the model does not run on noise, and there are no
            inputs.
    """
    known = vars(model).get('_description')
    if known is not None:
        return Description(known)
    return describe_program(trace(model, inputs))


def explain(model: nn.Module, layer: str, inputs=None) -> str:
    """Tell how the values that a layer reads came about, step by step.

    Args:
        model (nn.Module): In float form.
        layer (str): Path of a conv or linear layer.
        inputs (optional): As in :func:`describe`.

    Raises:
        KeyError: If there is no such layer.
    """
    return trace(model, inputs).explain(layer)


def describe_program(program: Program) -> Description:
    """Make the rows of a float model that was traced."""
    rows = [describe_layer(e, program) for e in program.layers.values()]
    # A product stands behind the layer that ran before it.
    before = None
    for name in program.order:
        if name in program.products:
            row = describe_product(name, program.products[name], program)
            at = [r.name for r in rows].index(before) + 1 if before else 0
            rows.insert(at, row)
        before = name
    description = Description(rows)
    if program.branches:
        description.notes = [program.told_branches()]
    return description


def describe_layer(entry: WeightLayer, program: Program) -> LayerDescription:
    """Make the row of a layer."""
    spikes = entry.spikes
    return LayerDescription(
        entry.name, layer_kind(entry.layer), 'spike' if spikes else 'real',
        spikes.levels if spikes else None, entry.bits or 32,
        'AC' if spikes else 'MAC', entry.source or program.why(entry))


def describe_product(name: str, product: Product,
                     program: Program) -> LayerDescription:
    """Make the row of a product of spikes with spikes or real values."""
    kind = f'{product.operations[0]} of ' + (
        'counts' if len(product.spikes) > 1 else 'spikes')
    if product.trilinear:
        kind = 'q (k^T v)' if len(product.spikes) == 3 else 'product of counts'
    source = ', '.join(dict.fromkeys(map(program.source, product.spikes)))
    return LayerDescription(name, kind, 'spike', product.spikes[-1].levels,
                            None, 'AC', source)
