"""A trained ANN counterpart becomes a spiking network, without training."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..layers import IELIF, LSQWeight, SpikingNeuron
from ..layers.lsq import round_to_codes
from ..models.counterpart import counterpart_model

METHODS = ('error', 'percentile')
# Thresholds tried, over that which no potential of the first batch exceeds
# at D: 12% from each to the next.
THRESHOLDS = torch.logspace(-2, 0.3, 48).tolist()
# Potentials of a batch that a threshold is fitted to.
SAMPLES = 8192
# Steps tried, over that at which the largest weight is the largest code.
STEPS = torch.logspace(math.log10(0.15), math.log10(1.2), 80).tolist()
# A norm is not trusted to differ more from the ANN's in scale.
MAX_RATIO = 10.


@dataclass
class Calibration:
    """What :func:`calibrate` did.

    Attributes:
        thresholds (dict[str, float]): Of each neuron fitted, by its path.
        idle (list[str]): Neurons with learned thresholds that did not run.
        fixed (list[str]): Neurons that were left as they are.
        layers (int): Quantized layers whose step sizes were fitted.
        norms (int): Batch norms whose statistics were fitted.
    """
    thresholds: dict[str, float] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)
    layers: int = 0
    norms: int = 0

    def __str__(self) -> str:
        text = (f'calibrated: {len(self.thresholds)} thresholds, '
                f'{self.layers} quantized layers, {self.norms} batch norms')
        if self.fixed:
            text += (f"\nleft as they are: {len(self.fixed)} neurons without "
                     f"threshold='learned', e.g. {self.fixed[0]}")
        if self.idle:
            text += (f'\nnot calibrated: {len(self.idle)} neurons that did '
                     f'not run, e.g. {self.idle[0]}')
        return text


@torch.no_grad()
def calibrate(model: nn.Module,
              batches: Iterable,
              method: str = 'error',
              percentile: float = 99.) -> Calibration:
    r"""Fit a spiking, quantized network to its ANN counterpart.

    Step sizes minimize the squared error of each output channel's weights.
    Then each batch runs through the ANN and through the spiking network, and
    every layer of the latter is fitted when its turn comes, to what the
    layers before it give, fitted already, in all batches so far:

    - A learned threshold minimizes the squared error of the spikes S against
      relu(H); or a percentile of the positive potentials H gets the largest
      count: :math:`\theta = percentile(H) / D`.
    - The running statistics of a batch norm become those with which its
      outputs have the mean and variance of the ANN's on the same images.
    - The bias of a layer: those with which its outputs have the ANN's mean.

    Nothing is stored but sums. Fixed thresholds stay as they are.

    Args:
        model (nn.Module): The spiking network with the ANN's weights; changed
            in place. In any mode; it computes as in evaluation.
        batches (Iterable): Of its training data loader, with ground truth,
            because heads see regions as in training then; or tensors, for a
            backbone. Any number of steps through it.
        method (str): How thresholds are fitted: 'error' or 'percentile'.
            Defaults to 'error'.
        percentile (float): In (0, 100]; for method='percentile'.
            Defaults to 99.

    Raises:
        ValueError: For other arguments, no batch, no neuron with a learned
            threshold, potentials that are not finite, or a neuron that never
            fires. The model is then to be thrown away.

    Source: layer by layer against the float network, as is usual after
    training (arXiv 1906.04721, section 4.2; arXiv 2106.08295).
    """
    if method not in METHODS or not 0 < percentile <= 100:
        raise ValueError(f'method must be one of {METHODS} and percentile in '
                         f'(0, 100], got {method!r} and {percentile}')
    neurons = {k: m for k, m in model.named_modules()
               if isinstance(m, SpikingNeuron)}
    done = Calibration(fixed=[k for k, m in neurons.items()
                              if not _is_learned(m)])
    if len(done.fixed) == len(neurons):
        raise ValueError(
            'no neuron of this model has a learned threshold, so there is '
            'nothing to fit to the ANN: set neuron=dict(type="mmqsdt.IELIF", '
            'threshold="learned") in backbone, neck and heads')
    training = {m: m.training for m in model.modules()}
    model.eval()
    ann = counterpart_model(model)
    done.layers = fit_step_sizes(model)
    fits = {k: _FitThreshold(k, m, method, percentile)
            for k, m in neurons.items() if _is_learned(m)}
    pairs = _pair_layers(ann, model)
    number = 0
    try:
        for batch in batches:
            number += 1
            _run(ann, model, batch)
            for pair in pairs:
                pair.end_batch()
    finally:
        for each in (*fits.values(), *pairs):
            each.remove()
        for module, mode in training.items():
            module.training = mode
    if not number:
        raise ValueError('no batch of images to calibrate on')
    done.norms = sum(isinstance(p, _MatchNorm) and p.ours.number > 0
                     for p in pairs)
    _check(fits, done, number)
    return done


@torch.no_grad()
def fit_step_sizes(model: nn.Module) -> int:
    """Give each quantized output channel the step of the least squared error.

    Returns:
        int: How many layers are quantized.
    """
    layers = [m for m in model.modules()
              if isinstance(m, LSQWeight) and m.bits is not None]
    for layer in layers:
        weight = layer.weight.flatten(1).float()
        largest = weight.abs().amax(1, keepdim=True) / layer.qmax
        # A channel of zeros is exact with any step.
        largest = torch.where(largest > 0, largest, layer.initial_step)
        step = largest
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


def _is_learned(neuron: SpikingNeuron) -> bool:
    return isinstance(neuron, IELIF) and neuron.learned


def _run(ann: nn.Module, model: nn.Module, batch: dict | Tensor) -> None:
    """One batch through both, the same images and truth."""
    if isinstance(batch, Tensor):
        ann(batch)
        model(batch)
        return
    data = model.data_preprocessor(batch, True)
    ann(**data, mode='loss')
    model(**data, mode='loss')


class _FitThreshold:
    """Fits the threshold of a neuron to what it reads, before it fires."""

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
            self.tried = [largest / neuron.levels * x for x in THRESHOLDS]
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
        """Search for the best; the membrane takes part if T > 1."""
        wanted = potentials.relu()
        errors = []
        for threshold in self.tried:
            neuron.threshold = threshold
            # Not a call, which would run this hook again.
            spikes = neuron.forward(potentials)
            errors.append((spikes - wanted).square_().mean() * elements)
        self.errors = [a + b for a, b in zip(self.errors,
                                             torch.stack(errors).tolist())]
        return self.tried[self.errors.index(min(self.errors))]


class _Moments:
    """Mean and variance of each channel over all that was added."""

    def __init__(self) -> None:
        self.number = 0
        self.mean = self.var = torch.zeros(())

    def add(self, number: int, mean: Tensor, var: Tensor) -> None:
        """Add those of `number` more elements a channel."""
        total = self.number + number
        share = number / total
        difference = mean - self.mean
        self.var = self.var + share * (var - self.var) \
            + share * (1 - share) * difference**2
        self.mean = self.mean + share * difference
        self.number = total


def _moments(x: Tensor, channels: int) -> tuple[int, Tensor, Tensor]:
    """Elements a channel, their mean and variance."""
    if not x.numel():
        return 0, x, x
    dims = [d for d in range(x.dim()) if d != channels % x.dim()]
    var, mean = torch.var_mean(x.float(), dims, correction=0)
    return x.numel() // len(mean), mean, var


class _Match:
    """A layer of the ANN, and ours, which is fitted to it.

    The n-th call of ours in a batch is compared with the n-th of the ANN's:
    heads are called once a level.
    """

    def __init__(self, theirs: nn.Module, ours: nn.Module) -> None:
        self.theirs, self.ours = _Moments(), _Moments()
        self._seen: deque = deque()
        self._handles = [self._watch(theirs), self._fit(ours)]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def end_batch(self) -> None:
        self._seen.clear()

    def _add(self, x: Tensor, channels: int) -> bool:
        """Whether there is something to compare, and it was added."""
        if not self._seen:
            return False
        seen = self._seen.popleft()
        if not x.numel() or not seen[0]:
            return False
        self.theirs.add(*seen)
        self.ours.add(*_moments(x, channels))
        return True


class _MatchNorm(_Match):
    """Fits the running statistics of a batch norm."""

    def _watch(self, norm: _BatchNorm):
        self._mean, self._var = norm.running_mean, norm.running_var

        def keep(module, args) -> None:
            self._seen.append(_moments(args[0], 1))

        return norm.register_forward_pre_hook(keep)

    def _fit(self, norm: _BatchNorm):

        def fit(module, args) -> None:
            if not self._add(args[0], 1):
                return
            # Channels that hardly vary on these images tell no ratio.
            little = 0.01 * self._var + module.eps
            ratio = ((self.ours.var + little) /
                     (self.theirs.var + little)).sqrt()
            ratio = ratio.clamp(1 / MAX_RATIO, MAX_RATIO)
            module.running_mean.copy_(
                self.ours.mean - ratio * (self.theirs.mean - self._mean))
            module.running_var.copy_(ratio**2 * self._var)

        return norm.register_forward_pre_hook(fit)


class _MatchBias(_Match):
    """Fits the bias of a layer."""

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
            plain = output - module.bias.view(shape)
            if not self._add(plain, channels):
                return None
            module.bias.copy_(self.theirs.mean - self.ours.mean)
            return plain + module.bias.view(shape)

        return layer.register_forward_hook(fit)


def _pair_layers(ann: nn.Module, model: nn.Module) -> list[_Match]:
    pairs: list[_Match] = []
    theirs = dict(ann.named_modules())
    for name, ours in model.named_modules():
        if isinstance(ours, _BatchNorm) and ours.running_var is not None:
            pairs.append(_MatchNorm(theirs[name], ours))
        elif isinstance(ours, (_ConvNd, nn.Linear)) and ours.bias is not None:
            pairs.append(_MatchBias(theirs[name], ours))
    return pairs


def _check(fits: dict[str, _FitThreshold], done: Calibration,
           batches: int) -> None:
    """Note what was fitted; refuse a network that a layer cuts off."""
    for name, fit in fits.items():
        if not fit.runs:
            done.idle.append(name)
        elif not fit.tried:
            raise ValueError(
                f'{name} never fires: all it reads in {batches} batches is 0 '
                'or less, and its ReLU in the ANN would be silent too. '
                'Calibrate on more images (--images), or train the ANN anew: '
                'nothing behind it sees the picture')
        else:
            done.thresholds[name] = fit.neuron.threshold
    if not done.thresholds:
        raise ValueError('none of the neurons with a learned threshold ran')
