"""Predict whether a network will train: gradients and firing by layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..layers import IELIF, LSQWeight
from ..models.counterpart import check_counterpart, counterpart_config
from ..utils.tables import new_table, print_table
from ..utils.text import part_of
from .firing import FiringRate
from .record import listening

# Up to this ratio of a part's gradient to that of the counterpart, both train
# well with the same schedule.
SOUND_RATIO = 3.


@dataclass
class NeuronState:
    """What one neuron did with its potentials.

    Attributes:
        rate (float): Firing rate: mean count / D, 0..1.
        below (float): Share of potentials below the window (H <= 0), 0..1.
        above (float): Share above it (H >= D theta): saturated.
    """
    rate: float
    below: float
    above: float


@dataclass
class GradientReport:
    """Result of :func:`measure_gradients`, in the order of the network.

    Attributes:
        layers (dict[str, float]): Norm of the gradient of the parameters of
            each layer with weights, by path.
        parts (dict[str, float]): The same by stage, neck and head, all
            parameters together.
        neurons (dict[str, NeuronState]): By path; none in an ANN.
        loss (float): The sum of all losses.
    """
    layers: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    neurons: dict[str, NeuronState] = field(default_factory=dict)
    loss: float = 0.


@contextmanager
def recorded_states(model: nn.Module) -> Iterator[dict[str, NeuronState]]:
    """Collect what IE-LIF neurons do in all forward passes in between."""
    states: dict[str, NeuronState] = {}
    rates: dict[str, FiringRate] = {}
    outside: dict[str, Tensor] = {}  # elements below and above the window

    @torch.no_grad()
    def hear(path: str, neuron: IELIF, x: Tensor, output: Tensor) -> None:
        # A head runs once for every level of a pyramid.
        rate = rates.setdefault(path, FiringRate(neuron.levels))
        rate.add(output / neuron.amplitude)
        u = x / neuron.threshold  # without the membrane, if T > 1
        found = torch.stack([(u <= 0).sum(), (u >= neuron.levels).sum()])
        outside[path] = outside.get(path, 0) + found
        if rate.elements:
            below, above = outside[path].tolist()
            states[path] = NeuronState(
                rate.rate, below / rate.elements, above / rate.elements)

    neurons = {path: m for path, m in model.named_modules()
               if isinstance(m, IELIF)}
    with listening(neurons, hear):
        yield states


def task_loss(model: nn.Module, batch: dict) -> Tensor:
    """Sum the losses of a model of any of the three frameworks."""
    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode='loss')
    return model.parse_losses(losses)[0]


def measure_gradients(model: nn.Module, batch: dict,
                      seed: int = 0) -> GradientReport:
    """Run one training step without an optimizer and read its gradients.

    Batch norms are in training mode; their running statistics are restored.
    Learned thresholds that have not started are started by the batch.

    Args:
        model (nn.Module): A whole model; only its thresholds are changed.
        batch (dict): From a data loader of the training.
        seed (int): For samplers of regions and dropout. Defaults to 0.

    Raises:
        ValueError: If the loss is not finite, or no parameter has a gradient.
    """
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    training = model.training
    model.train()
    with torch.random.fork_rng(devices=[]):
        if any(isinstance(m, IELIF) and m.learned for m in model.modules()):
            torch.manual_seed(seed)
            with torch.no_grad():
                task_loss(model, batch)
        torch.manual_seed(seed)
        model.zero_grad()
        with recorded_states(model) as states:
            loss = task_loss(model, batch)
        loss.backward()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    report = GradientReport(neurons=states, loss=float(loss.detach()))
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        square = float(parameter.grad.double().square().sum())
        part = part_of(name)
        squares[part] = squares.get(part, 0.) + square
    report.parts = {name: value**0.5 for name, value in squares.items()}
    for name, module in model.named_modules():
        if isinstance(module, (LSQWeight, nn.Conv2d, nn.Linear)) and \
                module.weight.grad is not None:
            report.layers[name] = float(module.weight.grad.norm())
    model.zero_grad()
    model.train(training)
    if not report.layers or not torch.isfinite(loss):
        raise ValueError(f'the loss is {report.loss}: no gradient to look at')
    return report


def compare_with_counterpart(
        cfg: Config, build, batch: dict,
        seed: int = 0) -> tuple[GradientReport, GradientReport]:
    """Measure a config and its ANN counterpart from the same start.

    Args:
        cfg (Config): Of a whole model.
        build (Callable): Makes a model with initialized weights of a
            config.
        batch (dict): See :func:`measure_gradients`.
        seed (int): For weights and samplers. Defaults to 0.

    Returns:
        tuple: The report of the model, that of the counterpart.

    Raises:
        ValueError: If a spiking neuron is left in the counterpart.
    """
    models = []
    for config in (cfg, counterpart_config(cfg)):
        torch.manual_seed(seed)
        models.append(build(config))
    check_counterpart(models[1])
    return tuple(measure_gradients(m, batch, seed) for m in models)


def find_faults(report: GradientReport, ann: GradientReport,
                limit: float = SOUND_RATIO) -> list[str]:
    """List what will keep a network from training, a line each.

    Args:
        report (GradientReport): Of the spiking model.
        ann (GradientReport): Of its counterpart.
        limit (float): Largest ratio of two gradients that is sound.
            Defaults to 3.
    """
    faults = []
    for name, norm in report.parts.items():
        other = ann.parts.get(name, 0.)
        if other and norm > limit * other:
            faults.append(
                f'{name}: the gradient is {norm / other:.1f} times that of '
                'the ANN counterpart: it explodes on the way back. Use '
                "threshold='learned', or a larger threshold")
        elif other and norm * limit < other:
            faults.append(
                f'{name}: the gradient is {other / max(norm, 1e-30):.1f} '
                'times smaller than that of the ANN counterpart: it '
                'vanishes. Use threshold=\'learned\', or a smaller threshold')
    for name, state in report.neurons.items():
        if state.above > 0.9:
            faults.append(f'{name}: {state.above:.0%} of its potentials are '
                          'at or above the window: saturated, no gradient '
                          'passes')
        elif state.rate == 0:
            faults.append(f'{name}: never fires')
    return faults


def print_gradients(report: GradientReport, ann: GradientReport) -> None:
    """Print a line for each part: both gradients, and the firing rate."""
    table = new_table(
        'Norm of the gradient of all parameters', ('part', ),
        ('this model', 'ANN counterpart', 'ratio', 'firing rate'))
    for name, norm in report.parts.items():
        other = ann.parts.get(name, 0.)
        rates = [s.rate for n, s in report.neurons.items()
                 if part_of(n) == name]
        table.add_row(
            name, f'{norm:.3g}', f'{other:.3g}',
            f'{norm / other:.2f}' if other else '-',
            f'{sum(rates) / len(rates):.2f}' if rates else '-')
    print_table(table)
