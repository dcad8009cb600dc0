"""Operations of the spike form, counted one by one, and as papers count."""

from collections.abc import Callable, Mapping

import torch
from spikingjelly.activation_based.op_counter import (
    DispatchCounterMode,
    SynOpCounter,
)
from torch import Tensor, nn

from ..deploy.forms import convert
from ..deploy.program import Program
from ..deploy.spikes import SlotProduct, split_slots
from ..layers import RepConv, SepConv
from .energy_report import LayerEnergy

aten = torch.ops.aten


@torch.no_grad()
def run(model: nn.Module, batches: list,
        call: Callable = lambda function, batch: function(batch)) -> None:
    """Run a model on batches of a data loader, or on tensors."""
    for batch in batches:
        call(model.test_step if isinstance(batch, Mapping) else model, batch)


def by_module(counts: Mapping[str, Mapping],
              model: nn.Module) -> dict[str, int]:
    """Sum a counter by path; of a shared module by its first path.

    PyTorch's module tracker names a shared module after the parent that ran
    last, so it has counts under each of its paths.
    """
    root = type(model).__name__
    first: dict[nn.Module, str] = {}
    sums: dict[str, int] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        path = join(root, name) if name else root
        count = sum(counts.get(path, {}).values())
        name = first.setdefault(module, name)
        sums[name] = sums.get(name, 0) + count
    return sums


def join(path: str, child: str) -> str:
    """Path of a child; the path of the model itself is ''."""
    return f'{path}.{child}' if path else child


def count_slots(model: nn.Module, batches: list,
                rows: dict[str, LayerEnergy], encoding: str,
                program: Program) -> None:
    """Fill in the operations of the spike form.

    What reads real values is taken as dense, not counted: the counter tells
    spikes by their values, and a real-valued map can happen to be all zero.
    """
    model = convert(model, encoding, program=program)
    products: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, SlotProduct):
            products[name] = 0

            def count(module, args, name=name):
                products[name] += product_operations(module, *args)

            module.register_forward_pre_hook(count)
    counter = spike_counter()
    with DispatchCounterMode([counter]):
        run(model, batches)
    counts = by_module(counter.get_counts(), model) | products
    if hasattr(model, 'slot_products'):
        counts |= model.slot_products.operations
    for name, row in rows.items():
        spikes = row.reads == 'spike'
        row.counted[encoding] = dict(
            ac=float(counts[name]) if spikes else 0.,
            mac=0. if spikes else row.macs)


def spike_counter() -> SynOpCounter:
    """SpikingJelly's, told that weights are no spikes.

    By itself it takes all that holds only zeros and ones for spikes, and
    then counts pairs of them. The codes of a small layer can be like that;
    and so can a sparse k^T v, hence :func:`product_operations`.
    """
    counter = SynOpCounter()
    for operation, place in ((aten.convolution.default, 1),
                             (aten.mm.default, 1), (aten.bmm.default, 1),
                             (aten.addmm.default, 2)):

        def rule(args, kwargs, out, place=place,
                 known=counter.rules[operation]):
            args = list(args)
            args[place] = torch.full_like(args[place], 2)  # neither 0 nor 1
            return known(args, kwargs, out)

        counter.rules[operation] = rule
    return counter


def product_operations(product: SlotProduct, q: Tensor, k: Tensor,
                       v: Tensor) -> int:
    """Accumulations of q (k^T v), from slots as the product reads them."""
    k, v = (
        split_slots(x, len(weights)).double().sum(0).unflatten(
            1, (product.num_heads, -1)).sum(2)
        for x, weights in zip((k, v), product.weights[1:])
    )  # spikes of a token and head, (T*B, heads, H, W)
    width = q.shape[1] // product.num_heads
    return int((k * v).sum()) + int(q.double().sum()) * width


def published_operations(
    model: nn.Module, rows: dict[str, LayerEnergy]
) -> dict[str, tuple[float, float, float]]:
    """AC, MAC, and MAC of the ANN, as papers count them: with padding."""
    operations = {}
    for name, row in rows.items():
        padded = row.padded_macs / row.macs if row.macs else 0
        operations[name] = (
            padded * row.synaptic_operations,
            padded * row.macs if row.reads == 'real' else 0,
            padded * row.ann_macs)
    for name, module in model.named_modules():
        if isinstance(module, RepConv):
            first, *inner = (rows[join(name, x)] for x in (
                'pointwise1', 'depthwise', 'pointwise2'))
            if first.reads == 'spike' and inner[0].reads == 'real':
                # C x C weights become C x C x 3 x 3, over the same spikes.
                operations[first.name] = tuple(
                    9 * count for count in operations[first.name])
                operations.update((x.name, (0, 0, 0)) for x in inner)
        elif isinstance(module, SepConv):
            spikes, last = (
                rows[join(name, x)] for x in ('depthwise', 'project'))
            if spikes.reads == 'spike' and last.reads == 'real':
                mean_count = spikes.firing_rate * spikes.levels
                operations[last.name] = (last.padded_macs * mean_count, 0,
                                         operations[last.name][2])
    return operations
