"""What layers and products read while a model runs, and how often."""

from collections import Counter
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from ..deploy.flow import Tracer
from ..deploy.operations import Product, Spikes, tensors
from ..layers import SpikingNeuron
from .firing import FiringRate
from .padding import exact_flop_counter


class Meter(Tracer):
    """Counts the spikes that neurons fire, and layers and products read.

    Attributes:
        padded (FlopCounterMode): Of PyTorch; runs around it.
        flops (FlopCounterMode): The same, without products with padding.
        neurons (dict[nn.Module, FiringRate]): What a neuron put out.
        layers (dict[nn.Module, FiringRate]): What a layer read.
        inputs (Counter): Values that a layer read.
        parts (dict): Of each product, a list of its multiplications: their
            MACs, and what was read.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.padded = FlopCounterMode(display=False)
        self.flops = exact_flop_counter()
        self.neurons: dict[nn.Module, FiringRate] = {}
        self.inputs: Counter[nn.Module] = Counter()
        self.layers: dict[nn.Module, FiringRate] = {}
        self.parts: dict[Product, list[tuple[list, list]]] = {}

    def run_leaf(self, path: str, module: nn.Module, forward: Callable,
                 *args, **kwargs):
        """See :class:`Tracer`."""
        if isinstance(module, (_ConvNd, nn.Linear)):
            self.inside += 1
            x = next(tensors([args, kwargs]))
            self.inputs[module] += x.numel()
            spikes = self.value(x).spikes
            if spikes is not None and spikes.bounded:
                rate = self.layers.setdefault(module,
                                              FiringRate(spikes.levels))
                rate.levels = max(rate.levels, spikes.levels)
                rate.add(x / spikes.amplitude)
            self.inside -= 1
        out = super().run_leaf(path, module, forward, *args, **kwargs)
        if isinstance(module, SpikingNeuron):
            self.inside += 1
            self.neurons.setdefault(
                module, FiringRate(module.levels)).add(out / module.amplitude)
            self.inside -= 1
        return out

    def product(self, product: Product, function: Callable, args: tuple,
                kwargs: dict, tags: list[Spikes | None]) -> Tensor:
        """See :class:`Tracer`."""
        before = self.flops.get_total_flops()
        out = function(*args, **kwargs)
        macs = (self.flops.get_total_flops() - before) / 2
        parts = self.parts.setdefault(product, [])
        # The second of q (k^T v) reads the sums of the first.
        place = int(any(tag and not tag.bounded for tag in tags))
        read = [(x, tag) for x, tag in zip(tensors([args, kwargs]), tags)
                if tag is not None and tag.bounded]
        if len(parts) == place:
            parts.append(([], [FiringRate(tag.levels) for _, tag in read]))
        all_macs, rates = parts[place]
        all_macs.append(out.numel() if product.elementwise else macs)
        for rate, (x, tag) in zip(rates, read):
            rate.add(x / tag.amplitude)
        return out
