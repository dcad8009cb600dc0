"""Fit single layers of a spiking network to those of its ANN counterpart.

Step sizes are fitted to the weights alone. Thresholds, batch norms and biases
are fitted while images run through both networks: each object here registers
a forward hook, and fits its layer before the layers behind it run.
"""

import math
from collections import deque

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..layers import IELIF, LSQWeight
from ..layers.lsq import round_to_codes

METHODS = ('error', 'percentile')
# Thresholds to try, each 12% above the one before. 1 stands for the smallest
# threshold at which no potential of the first batch exceeds the window.
THRESHOLDS = torch.logspace(-2, 0.3, 48).tolist()
# Potentials of a batch that a threshold is fitted to.
SAMPLES = 8192
# Step sizes to try. 1 stands for the smallest one at which no weight of the
# channel is clipped.
STEPS = torch.logspace(math.log10(0.15), math.log10(1.2), 80).tolist()
# Bound of the ratio between the standard deviations of a channel here and in
# the ANN: a larger one comes from too few images.
MAX_RATIO = 10.


@torch.no_grad()
def fit_step_sizes(model: nn.Module) -> int:
    """Give each quantized output channel the step size of least error.

    The error is the sum of squares over the weights of the channel.

    Returns:
        int: How many layers are quantized.
    """
    layers = [m for m in model.modules()
              if isinstance(m, LSQWeight) and m.bits is not None]
    for layer in layers:
        weight = layer.weight.flatten(1).float()
        largest = weight.abs().amax(1, keepdim=True) / layer.qmax
        # A channel of zeros is exact with any step size.
        largest = torch.where(largest > 0, largest, layer.initial_step)
        step = largest  # (out_channels, 1)
        least = torch.full_like(largest, math.inf)
        for share in STEPS:
            tried = largest * share
            codes = round_to_codes(weight, tried, layer.qmin, layer.qmax,
                                   layer.signs)
            error = (codes.mul_(tried) - weight).square_().sum(
                1, keepdim=True)
            step = torch.where(error < least, tried, step)
            least = torch.minimum(error, least)
        layer.set_step_size(step.squeeze(1))
    return len(layers)


class FitThreshold:
    """Fit the threshold of a neuron to what it reads, before it fires.

    Args:
        name (str): Path of the neuron, for messages.
        neuron (IELIF): With a learned threshold.
        method (str): One of METHODS.
        percentile (float): In (0, 100], for method='percentile'.

    Attributes:
        runs (int): Calls of the neuron with any element.
        tried (list[float]): Thresholds compared; empty until a potential is
            positive.
    """

    def __init__(self, name: str, neuron: IELIF, method: str,
                 percentile: float) -> None:
        self.name, self.neuron = name, neuron
        self.method = method
        self.percentile = percentile
        self.runs = 0
        self.tried: list[float] = []
        self.errors = [0.] * len(THRESHOLDS)
        self.quantiles: list[float] = []
        self._random = torch.Generator().manual_seed(0)
        self._handle = neuron.register_forward_pre_hook(self)

    def remove(self) -> None:
        """Stop fitting."""
        self._handle.remove()

    def __call__(self, neuron: IELIF, args: tuple[Tensor]) -> None:
        x = args[0]
        if not x.numel():
            return
        self.runs += 1
        largest = float(x.max())
        if not math.isfinite(largest):
            raise ValueError(
                f'{self.name} reads values that are not finite: the '
                'checkpoint, or a picture that it is calibrated on, is '
                'damaged, or the training of the ANN had diverged')
        if largest <= 0:
            return
        if not self.tried:
            self.tried = [largest / neuron.levels * share
                          for share in THRESHOLDS]
        potentials = self._sample(neuron, x)
        if self.method == 'error':
            threshold = self._least_error(neuron, potentials, x.numel())
        else:
            positive = potentials[potentials > 0]
            if len(positive):
                self.quantiles.append(
                    float(positive.float().quantile(self.percentile / 100)))
            if not self.quantiles:
                return
            threshold = sum(self.quantiles) / len(self.quantiles) \
                / neuron.levels
        neuron.threshold = threshold

    def _sample(self, neuron: IELIF, x: Tensor) -> Tensor:
        """Sample some of the elements, at all time steps, (T, n)."""
        x = neuron.split_time(x).flatten(1)
        number = SAMPLES // neuron.time_steps
        if x.shape[1] <= number:
            return x
        chosen = torch.randint(
            x.shape[1], (number, ), generator=self._random)
        return x[:, chosen.to(x.device)]

    def _least_error(self, neuron: IELIF, potentials: Tensor,
                     elements: int) -> float:
        """Find the threshold of least error over all batches so far.

        Args:
            neuron (IELIF): Is left with some other threshold.
            potentials (Tensor): A sample, (T, n). If T > 1 the membrane
                carries over from step to step, as in the network.
            elements (int): How many the sample stands for.
        """
        wanted = potentials.relu()
        errors = []
        for threshold in self.tried:
            neuron.threshold = threshold
            # forward, because a call would run this hook again.
            spikes = neuron.forward(potentials)
            errors.append((spikes - wanted).square_().mean() * elements)
        self.errors = [a + b for a, b in zip(self.errors,
                                             torch.stack(errors).tolist())]
        return self.tried[self.errors.index(min(self.errors))]


class Moments:
    """Mean and variance of each channel over all batches that were added."""

    def __init__(self) -> None:
        self.number = 0  # of elements in each channel
        self.mean = self.var = torch.zeros(())

    def add(self, number: int, mean: Tensor, var: Tensor) -> None:
        """Add mean and variance of ``number`` more elements a channel."""
        total = self.number + number
        share = number / total
        difference = mean - self.mean
        self.var = self.var + share * (var - self.var) \
            + share * (1 - share) * difference**2
        self.mean = self.mean + share * difference
        self.number = total


def _moments(x: Tensor, channels: int) -> tuple[int, Tensor, Tensor]:
    """Return the number of elements in a channel, their mean, variance."""
    if not x.numel():
        return 0, x, x
    dims = [d for d in range(x.dim()) if d != channels % x.dim()]
    var, mean = torch.var_mean(x.float(), dims, correction=0)
    return x.numel() // len(mean), mean, var


class Match:
    """A layer of the ANN, and ours, which is fitted to it.

    The ANN runs first. Of a layer that is called several times in a batch, as
    heads are for the levels of a pyramid, our n-th call is compared with the
    ANN's n-th.
    """

    def __init__(self, theirs: nn.Module, ours: nn.Module) -> None:
        self.theirs, self.ours = Moments(), Moments()
        self._seen: deque = deque()
        self._handles = [self._watch(theirs), self._fit(ours)]

    def remove(self) -> None:
        """Stop fitting."""
        for handle in self._handles:
            handle.remove()

    def end_batch(self) -> None:
        """Forget calls of the ANN's layer that ours has no counterpart of."""
        self._seen.clear()

    def _add(self, x: Tensor, channels: int) -> bool:
        """Add our next call and the ANN's; False if either saw nothing."""
        if not self._seen:
            return False
        seen = self._seen.popleft()
        if not x.numel() or not seen[0]:
            return False
        self.theirs.add(*seen)
        self.ours.add(*_moments(x, channels))
        return True


class MatchNorm(Match):
    """Fit the running statistics of a batch norm.

    With r = std(ours) / std(theirs) of what both norms read, our norm gives
    outputs of the ANN's mean and variance with

        running_mean = mean(ours) - r (mean(theirs) - running_mean of theirs)
        running_var = r^2 running_var of theirs
    """

    def _watch(self, norm: _BatchNorm):
        self._mean, self._var = norm.running_mean, norm.running_var

        def keep(module, args) -> None:
            self._seen.append(_moments(args[0], 1))

        return norm.register_forward_pre_hook(keep)

    def _fit(self, norm: _BatchNorm):

        def fit(module, args) -> None:
            if not self._add(args[0], 1):
                return
            # Draws r towards 1 for channels that hardly vary here.
            little = 0.01 * self._var + module.eps
            ratio = ((self.ours.var + little) /
                     (self.theirs.var + little)).sqrt()
            ratio = ratio.clamp(1 / MAX_RATIO, MAX_RATIO)
            module.running_mean.copy_(
                self.ours.mean - ratio * (self.theirs.mean - self._mean))
            module.running_var.copy_(ratio**2 * self._var)

        return norm.register_forward_pre_hook(fit)


class MatchBias(Match):
    """Fit the bias of a layer, so that its outputs have the ANN's mean."""

    def _watch(self, layer: nn.Module):
        channels = 1 if isinstance(layer, _ConvNd) else -1

        def keep(module, args, output: Tensor) -> None:
            self._seen.append(_moments(output, channels))

        return layer.register_forward_hook(keep)

    def _fit(self, layer: nn.Module):
        channels = 1 if isinstance(layer, _ConvNd) else -1

        def fit(module, args, output: Tensor) -> Tensor | None:
            shape = [1] * output.dim()
            shape[channels] = -1
            plain = output - module.bias.view(shape)  # without the old bias
            if not self._add(plain, channels):
                return None
            module.bias.copy_(self.theirs.mean - self.ours.mean)
            return plain + module.bias.view(shape)

        return layer.register_forward_hook(fit)


def pair_layers(ann: nn.Module, model: nn.Module) -> list[Match]:
    """Pair the batch norms and the layers with bias of both networks."""
    pairs: list[Match] = []
    theirs = dict(ann.named_modules())
    for name, ours in model.named_modules():
        if isinstance(ours, _BatchNorm) and ours.running_var is not None:
            pairs.append(MatchNorm(theirs[name], ours))
        elif isinstance(ours, (_ConvNd, nn.Linear)) and ours.bias is not None:
            pairs.append(MatchBias(theirs[name], ours))
    return pairs
