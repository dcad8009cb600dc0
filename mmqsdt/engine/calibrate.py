"""Calibrate a trained ANN's spiking counterpart, without training it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..layers import IELIF, SpikingNeuron
from ..models.counterpart import counterpart_model
from .fit_layers import (
    METHODS,
    FitThreshold,
    MatchNorm,
    fit_step_sizes,
    pair_layers,
)


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
    Then each batch runs through the ANN and through the spiking network.
    Layer by layer, each behind layers that are fitted already, and over all
    batches so far:

    - A learned threshold minimizes the squared error of the spikes S against
      relu(H). Or it gives the largest count to a percentile of the positive
      potentials H: :math:`\theta = percentile(H) / D`.
    - The running statistics of a batch norm are set so that its outputs have
      the mean and variance of the ANN's on the same images.
    - The bias of a layer is set so that its outputs have the ANN's mean.

    Only sums are kept in memory. Fixed thresholds stay as they are.

    Args:
        model (nn.Module): The spiking network with the ANN's weights; changed
            in place. In any mode; it computes as in evaluation.
        batches (Iterable): Of its training data loader, with ground truth:
            heads then see regions as they do in training. Or tensors, for a
            backbone.
        method (str): How thresholds are fitted: 'error' or 'percentile'.
            Defaults to 'error'.
        percentile (float): In (0, 100]; for method='percentile'.
            Defaults to 99.

    Raises:
        ValueError: For other arguments, no batch, no neuron with a learned
            threshold, potentials that are not finite, or a neuron that never
            fires. The model is then half fitted and of no use.

    Source: post-training calibration layer by layer against the float
    network (arXiv 1906.04721, section 4.2; arXiv 2106.08295).
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
    fits = {k: FitThreshold(k, m, method, percentile)
            for k, m in neurons.items() if _is_learned(m)}
    pairs = pair_layers(ann, model)
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
    done.norms = sum(isinstance(p, MatchNorm) and p.ours.number > 0
                     for p in pairs)
    _check(fits, done, number)
    return done


def _is_learned(neuron: SpikingNeuron) -> bool:
    return isinstance(neuron, IELIF) and neuron.learned


def _run(ann: nn.Module, model: nn.Module, batch: dict | Tensor) -> None:
    """Run a batch through both, with the same images and ground truth."""
    if isinstance(batch, Tensor):
        ann(batch)
        model(batch)
        return
    data = model.data_preprocessor(batch, True)
    ann(**data, mode='loss')
    model(**data, mode='loss')


def _check(fits: dict[str, FitThreshold], done: Calibration,
           batches: int) -> None:
    """Note what was fitted; refuse a network in which a neuron is silent."""
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
