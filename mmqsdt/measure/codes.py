"""Read the codes and step sizes of quantized weights."""

from dataclasses import dataclass
from math import log2

import torch
from torch import nn

from ..layers import LSQWeight
from ..layers.lsq import Bits, code_values
from .entropy import entropy_bits


@dataclass
class LayerCodes:
    """Codes and step sizes of one layer.

    Attributes:
        layer (str): Its path.
        bits (int | str): Of a weight; 'ternary'.
        counts (list[int]): How many weights have code qmin, .., qmax.
        steps (list[float]): Step size of each output channel.
    """
    layer: str
    bits: Bits
    counts: list[int]
    steps: list[float]

    @property
    def codes(self) -> range:
        """All codes there are, qmin..qmax."""
        return code_values(self.bits)

    @property
    def bound(self) -> float:
        """The most that the codes can carry, in bits."""
        return log2(len(self.codes))

    @property
    def unused(self) -> list[int]:
        """Codes that no weight has."""
        return [c for c, n in zip(self.codes, self.counts) if not n]

    @property
    def share_clipped(self) -> float:
        """Share of weights at either end of the range."""
        return (self.counts[0] + self.counts[-1]) / sum(self.counts)

    @property
    def entropy(self) -> float:
        """Of the codes, in bits, at most ``bound``."""
        return entropy_bits(self.counts)

    def to_dict(self) -> dict:
        """Return plain data, derived figures included."""
        return dict(
            layer=self.layer, bits=self.bits,
            codes=dict(zip(self.codes, self.counts)), unused=self.unused,
            entropy_bits=self.entropy, share_clipped=self.share_clipped,
            step_sizes=self.steps)


@torch.no_grad()
def weight_codes(model: nn.Module) -> list[LayerCodes]:
    """Read codes and step sizes of every quantized layer of a model.

    Args:
        model (nn.Module): In float form.

    Raises:
        ValueError: If no layer is quantized.
    """
    found = []
    for name, layer in model.named_modules():
        if isinstance(layer, LSQWeight) and layer.bits is not None:
            codes = layer.integer_weight().long() - layer.qmin
            counts = torch.bincount(
                codes.flatten(), minlength=layer.qmax - layer.qmin + 1)
            found.append(
                LayerCodes(
                    name, layer.bits,
                    counts[::code_values(layer.bits).step].tolist(),
                    layer.positive_step_size().tolist()))
    if not found:
        raise ValueError('no layer of this model has quantized weights: it is '
                         'an ANN counterpart, or was built with '
                         'weight_bits=None')
    return found
