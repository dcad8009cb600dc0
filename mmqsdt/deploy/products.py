"""Products of spikes in the forward of a module that is not ours, on slots.

The model's own Python runs; where it multiplies two tensors of spikes, or
the sums of such a product with spikes once more, the slots are multiplied
instead, each with each. q (k^T v) so stays exact and made of accumulations
that spikes gate.
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .flow import Tracer
from .fold import FoldedLayer
from .operations import Product, Spikes, tensors
from .spikes import (
    SlotAttention,
    SlotNeuron,
    encode,
    slot_weights,
    split_slots,
)


class SlotProducts(Tracer):
    """Runs the products of a model in spike form.

    Args:
        model (nn.Module): In spike form.
        encoding (str): See :func:`slot_weights`.

    Attributes:
        operations (Counter): Accumulations of each product.
    """

    leaves = (*Tracer.leaves, FoldedLayer, SlotAttention, SlotNeuron)

    def __init__(self, model: nn.Module, encoding: str) -> None:
        super().__init__(model)
        self.encoding = encoding
        self.operations: Counter[Product] = Counter()

    def product(self, product: Product, function: Callable, args: tuple,
                kwargs: dict, tags: list[Spikes | None]) -> Tensor:
        """Run a product on slots; see :func:`Tracer.product`.

        What reads real values too, and what takes no sums, runs as it is:
        on counts.
        """
        read = list(tensors([args, kwargs]))
        integers = [x if tag is None else (x / tag.amplitude).round().double()
                    for x, tag in zip(read, tags)]
        slots = [self.slots(x, tag) for x, tag in zip(integers, tags)]

        def run(*operands: Tensor) -> Tensor:
            new = iter(operands)
            return function(*replaced(args, new), **replaced(kwargs, new))

        spikes = [sum(x for _, x in each) for each in slots]
        for i, tag in enumerate(tags):  # a sum meets each spike of the other
            if tag is None or not tag.bounded:
                spikes[i] = torch.ones_like(spikes[i]) if i < 2 else \
                    torch.zeros_like(spikes[i])  # a bias
        spikes = [x.double() for x in spikes]
        self.operations[product] += int(run(*spikes).sum())
        if product.elementwise or len(tags) != 2 or None in tags:
            return function(*args, **kwargs)
        total = sum(wa * wb * run(a, b) for wa, a in slots[0]
                    for wb, b in slots[1])
        total = total * (tags[0].amplitude * tags[1].amplitude)
        return total.to(read[0].dtype)

    def slots(self, x: Tensor,
              tag: Spikes | None) -> list[tuple[int, Tensor]]:
        """Weights and slots of counts; of all else, itself."""
        if tag is None or not tag.bounded:
            return [(1, x)]
        weights = slot_weights(tag.levels, self.encoding)
        slots = split_slots(
            encode(x.unsqueeze(0), tag.levels, self.encoding), len(weights))
        return list(zip(weights, slots.squeeze(1)))


def replaced(item, new):
    """Nested arguments with other tensors in the place of theirs."""
    if isinstance(item, Tensor):
        return next(new)
    if isinstance(item, dict):
        return {key: replaced(value, new) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return type(item)(replaced(value, new) for value in item)
    return item


class ProductHook:
    """Runs the forward of a model in spike form under SlotProducts.

    Args:
        encoding (str): See :func:`slot_weights`.

    Attributes:
        operations (Counter): Accumulations of each product so far, by name.
    """

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.operations: Counter[str] = Counter()
        self._running: list[SlotProducts] = []

    def attach(self, model: nn.Module) -> None:
        """Run with a model from now on."""
        model.register_forward_pre_hook(self.begin)
        model.register_forward_hook(self.end, always_call=True)
        model.slot_products = self

    def begin(self, model: nn.Module, args: tuple) -> None:
        """Before the forward."""
        self._running.append(SlotProducts(model, self.encoding).__enter__())

    def end(self, model: nn.Module, args: tuple, output) -> None:
        """Behind it, or behind an error."""
        products = self._running.pop()
        products.__exit__(None, None, None)
        for name, product in products.named_products().items():
            self.operations[name] += products.operations[product]
