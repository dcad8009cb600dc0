"""Read the codes and step sizes of quantized weights."""

from dataclasses import dataclass

import torch
from torch import nn

from ..layers import LSQWeight
from .entropy import entropy_bits


@dataclass
class LayerCodes:
    """Codes and step sizes of one layer.

    Attributes:
        layer (str): Its path.
        bits (int): Of a weight.
        counts (list[int]): How many weights have code qmin, .., qmax.
        steps (list[float]): Step size of each output channel.
    """
    layer: str
    bits: int
    counts: list[int]
    steps: list[float]

    @property
    def codes(self) -> range:
        """All possible codes, qmin..qmax."""
        return range(-2**(self.bits - 1), 2**(self.bits - 1))

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
        """Entropy of the codes in bits, at most ``bits``."""
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
            found.append(
                LayerCodes(
                    name, layer.bits,
                    torch.bincount(codes.flatten(),
                                   minlength=2**layer.bits).tolist(),
                    layer.positive_step_size().tolist()))
    if not found:
        raise ValueError('no layer of this model has quantized weights: it is '
                         'an ANN counterpart, or was built with '
                         'weight_bits=None')
    return found
