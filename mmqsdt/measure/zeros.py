"""Products in which no operand is zero, of the model and of its ANN.

The ANN counterpart was not trained. Its zeros are taken to be those of the
integer form of the model, which is a quantized ANN: its weights are zero
where the codes are, its activations where no spike is.
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..deploy.flow import Tracer, tensors
from ..deploy.operations import Product, Spikes
from ..deploy.products import replaced
from ..deploy.spikes import ENCODINGS, slot_weights
from ..layers import LSQWeight

ROUNDING = 1e-6
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
DECONVS = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def apply_weight(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Run a conv or linear layer with another weight."""
    if not isinstance(layer, _ConvNd):
        return F.linear(x, weight)
    axes = weight.dim() - 3
    if isinstance(layer, _ConvTransposeNd):
        return DECONVS[axes](x, weight, None, layer.stride, layer.padding,
                             layer.output_padding, layer.groups,
                             layer.dilation)
    return CONVS[axes]._conv_forward(layer, x, weight, None)


@torch.enable_grad()
def fan_out(layer: nn.Module, x: Tensor) -> Tensor:
    """How many weights that are no zero each value meets, (1, ...), float64.

    The sum of all outputs is linear in the values, so it is the gradient.
    """
    weight = layer.weight.detach()
    if isinstance(layer, LSQWeight) and layer.bits is not None:
        weight = layer.integer_weight()
    value = torch.zeros(1, *x.shape[1:], dtype=torch.double, device=x.device,
                        requires_grad=True)
    total = apply_weight(layer, value, (weight != 0).double()).sum()
    return torch.autograd.grad(total, value)[0]


def is_used(x: Tensor) -> Tensor:
    """Return which values are no zero, as the integer form computes them.

    There codes and counts cancel exactly; here they leave a rest of
    float32's rounding, of the largest value.
    """
    return x.abs() > (ROUNDING * x.abs().amax() if x.numel() else 0)


def slots_used(counts: Tensor, levels: int, encoding: str) -> Tensor:
    """How many slots of a count are 1."""
    if encoding == 'thermometer':
        return counts
    return sum(counts.div(w, rounding_mode='floor') % 2
               for w in slot_weights(levels, encoding))


class NonzeroProducts(Tracer):
    """Counts products without a zero while a model runs.

    Args:
        model (nn.Module): In eval mode.
        layers (dict[nn.Module, Spikes | None]): The layers to look at, and
            what they read.

    Attributes:
        counts (dict): Layer or product -> 'ann' or encoding -> products.
    """

    def __init__(self, model: nn.Module,
                 layers: dict[nn.Module, Spikes | None]) -> None:
        super().__init__(model)
        self.layers = layers
        self.counts: dict[nn.Module | Product, Counter[str]] = {}

    def run_leaf(self, path: str, module: nn.Module, forward: Callable,
                 *args, **kwargs):
        """See :class:`Tracer`."""
        if module in self.layers:
            self.inside += 1
            self.see(module, next(tensors([args, kwargs])))
            self.inside -= 1
        return super().run_leaf(path, module, forward, *args, **kwargs)

    def see(self, layer: nn.Module, x: Tensor) -> None:
        """Count what a layer makes of what it reads."""
        spikes = self.layers[layer]
        reached = fan_out(layer, x)

        def products(values: Tensor) -> int:
            return int((values * reached).sum().round())

        found = self.counts.setdefault(layer, Counter())
        found['ann'] += products(is_used(x))
        for encoding in ENCODINGS:
            found[encoding] += products(is_used(x)) if spikes is None else \
                products(slots_used((x / spikes.amplitude).round(),
                                    spikes.levels, encoding))

    def product(self, product: Product, function: Callable, args: tuple,
                kwargs: dict, tags: list[Spikes | None]) -> Tensor:
        """See :class:`Tracer`; sums of a product meet all that is no zero."""
        read = []
        for i, (x, tag) in enumerate(zip(tensors([args, kwargs]), tags)):
            if tag is not None and tag.bounded:
                read.append(is_used(x).double())
            else:
                read.append(torch.full_like(x, i < 2, dtype=torch.double))
        new = iter(read)
        out = function(*replaced(args, new), **replaced(kwargs, new))
        self.counts.setdefault(product, Counter())['ann'] += int(out.sum())
        return function(*args, **kwargs)
