"""Firing of every layer in the logs of a training."""

import math
from dataclasses import dataclass
from logging import WARNING

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor, nn

from ...deploy.spikes import integer_counts, spiking_neurons
from ...layers import LSQWeight, SpikingNeuron, settle_step_sizes
from ...registry import HOOKS
from ...utils.build import unwrap
from ...utils.text import part_of

# Firing rate above which a layer is called saturated.
FULL_RATE = 0.95
# Ratio of the first stage's gradient to that of the last above which it warns.
# At the start a counterpart with ReLU has 5 to 10, published neurons have 100
# to 300.
EXPLODED = 50.

STEPS = 'spike_monitor_first_steps'  # in the message hub, for resumption


@dataclass
class Firing:
    """What the channels of one layer of neurons did.

    Attributes:
        levels (int): D.
        elements (int): Counts seen.
        spikes (Tensor): Their sum, a scalar, float32.
        lowest (Tensor): Smallest count of each channel.
        highest (Tensor): Largest count of each channel.
    """
    levels: int
    elements: int
    spikes: Tensor
    lowest: Tensor
    highest: Tensor

    @classmethod
    def of(cls, neuron: SpikingNeuron, output: Tensor) -> 'Firing':
        """Read an output (T*B, C, ...) without waiting for the device."""
        x = output.detach()
        dims = [d for d in range(x.dim()) if d != 1]
        counts = (x.sum(dtype=torch.float32), x.amin(dims), x.amax(dims))
        return cls(neuron.levels, x.numel(),
                   *(integer_counts(neuron, c.float()) for c in counts))

    def __add__(self, other: 'Firing') -> 'Firing':
        """Add both together."""
        return Firing(self.levels, self.elements + other.elements,
                      self.spikes + other.spikes,
                      torch.minimum(self.lowest, other.lowest),
                      torch.maximum(self.highest, other.highest))

    @property
    def rate(self) -> float:
        """Firing rate: mean count / D, 0..1."""
        return float(self.spikes) / self.elements / self.levels

    @property
    def dead(self) -> int:
        """Channels that never fired."""
        return int((self.highest == 0).sum())

    @property
    def saturated(self) -> int:
        """Channels that always had the largest count."""
        return int((self.lowest == self.levels).sum())

    @property
    def channels(self) -> int:
        """C."""
        return len(self.highest)


def fetch(firing: dict[str, Firing]) -> dict[str, Firing]:
    """Move all tensors from the device at once."""
    if not firing:
        return {}
    flat = torch.cat([
        x for f in firing.values()
        for x in (f.spikes[None], f.lowest, f.highest)
    ]).cpu()
    sizes = [n for f in firing.values() for n in (1, f.channels, f.channels)]
    parts = iter(flat.split(sizes))
    return {
        name: Firing(f.levels, f.elements, next(parts)[0], next(parts),
                     next(parts)) for name, f in firing.items()
    }


@HOOKS.register_module()
class SpikeMonitorHook(Hook):
    """Log what neurons do in training, and warn when a layer dies.

    Every ``interval`` iterations it evaluates the last ``window`` iterations.
    It logs to the visualizer back ends of the config (local json, TensorBoard,
    WandB), for each layer and, as ``/all``, over all layers:

    - ``firing_rate``: mean count / D, 0..1;
    - ``dead``: share of channels that never fired in the window;
    - ``saturated``: share of channels that always had the largest count;
    - ``step_drift``: of layers with quantized weights, mean over channels of
      ``|s - s0| / s0``, for step sizes s and those at the start of training
      s0;
    - ``gradient_norm``: by stage, neck and head, in the last iteration of the
      window, before clipping.

    It warns when all channels of a layer are dead, and logs when the layer
    fires again. It also warns when a layer is always at its largest count,
    and, once, when the gradient grows on its way back through the backbone.
    Iterations outside the window, validation, and blocks that are recomputed
    in the backward pass are not recorded. With several processes the figures
    are those of all of them; gradients are those of the first.

    Args:
        interval (int): Iterations from one report to the next.
            Defaults to 100.
        window (int): Iterations that a report is about, the last ones of the
            interval. Defaults to 5.

    Raises:
        ValueError: If not 1 <= window <= interval; when training starts, if
            the model has no spiking neuron.

    Example::

        >>> custom_hooks = [dict(type='mmqsdt.SpikeMonitorHook')]
    """

    def __init__(self, interval: int = 100, window: int = 5) -> None:
        whole = all(
            isinstance(x, int) and not isinstance(x, bool)
            for x in (interval, window))
        if not whole or not 1 <= window <= interval:
            raise ValueError('expected whole numbers 1 <= window <= '
                             f'interval, got interval={interval!r}, '
                             f'window={window!r}')
        self.interval = interval
        self.window = window
        self._handles: list = []

    def before_train(self, runner) -> None:
        """Look up the layers; note the step sizes."""
        model = unwrap(runner.model)
        self.model: nn.Module = model
        self.neurons = spiking_neurons(model)
        if not self.neurons:
            raise ValueError(
                'SpikeMonitorHook: not a spiking model, it has no neuron such '
                'as IELIF; take the hook out of custom_hooks, an ANN '
                'counterpart does not spike')
        self.quantized = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, LSQWeight) and layer.bits is not None
        }
        settle_step_sizes(model)
        self._first_steps = self._find_first_steps(runner)
        self._firing: dict[str, Firing] = {}  # of the window so far
        self._silent: set[str] = set()
        self._full: set[str] = set()
        self._squares: dict[str, list[Tensor]] = {}
        self._warned = self._exploded = False

    def _find_first_steps(self, runner) -> dict[str, Tensor]:
        """Return the step sizes with which the training began."""
        now = {k: x.positive_step_size().detach().clone()
               for k, x in self.quantized.items()}
        hub = runner.message_hub
        known = hub.runtime_info.get(STEPS, {}) if runner.iter else {}
        first = {k: s.new_tensor(known.get(k, s.tolist()))
                 for k, s in now.items()}
        if any(first[k].shape != s.shape for k, s in now.items()):
            first = now  # another network began
        hub.update_info(STEPS, {k: s.tolist() for k, s in first.items()})
        return first

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Start recording if the window has begun."""
        left = self.interval - runner.iter % self.interval
        if left <= self.window and not self._handles:
            self._listen_to_neurons()
        if left == 1:
            self._listen_to_gradients(runner.optim_wrapper)

    def _listen_to_neurons(self) -> None:
        self._running = False
        self._handles = [
            self.model.register_forward_pre_hook(self._set_running(True)),
            self.model.register_forward_hook(self._set_running(False)),
            *(neuron.register_forward_hook(self._keep(name))
              for name, neuron in self.neurons.items())
        ]

    def _listen_to_gradients(self, wrapper) -> None:
        """Record the squared norm of each gradient when it is complete."""
        self._squares = {}
        # Of the backward pass: a step may change it, and is left out where a
        # gradient is infinite.
        scaler = getattr(wrapper, 'loss_scaler', None)
        self._scale = scaler.get_scale() if scaler is not None else 1.
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            squares = self._squares.setdefault(part_of(name), [])

            def note(parameter: Tensor, squares=squares) -> None:
                squares.append(parameter.grad.float().square().sum())

            self._handles.append(
                parameter.register_post_accumulate_grad_hook(note))

    def _set_running(self, running: bool):

        def note(module, args, output=None) -> None:
            # Not in validation (eval mode), nor when a block is recomputed,
            # which is after the forward pass of the model.
            self._running = running and module.training

        return note

    def _keep(self, name: str):

        def keep(neuron, args, output: Tensor) -> None:
            if not self._running or not output.numel():
                return
            found = Firing.of(neuron, output)
            known = self._firing.get(name)
            self._firing[name] = found if known is None else known + found

        return keep

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        """Report at the end of the window."""
        if (runner.iter + 1) % self.interval:
            return
        self._stop()
        firing = self._gather()
        runner.visualizer.add_scalars(
            {
                **self._shares(firing),
                **self._step_drift(),
                **self._gradient_norms(runner)
            },
            step=runner.iter + 1)
        self._warn(firing, runner.iter + 1)
        self._warn_full(firing, runner.iter + 1)

    def after_train(self, runner) -> None:
        """Take everything off the model."""
        self._stop()

    def _stop(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _gather(self) -> dict[str, Firing]:
        """Gather what fired in all processes, in the order of the network.

        A layer may have run in some of them only, if others had no region.
        """
        found, self._firing = fetch(self._firing), {}
        together: dict[str, Firing] = {}
        for part in all_gather_object(found):
            for name, f in part.items():
                known = together.get(name)
                together[name] = f if known is None else known + f
        return {k: together[k] for k in self.neurons if k in together}

    @staticmethod
    def _shares(firing: dict[str, Firing]) -> dict[str, float]:
        scalars = {}
        for name, f in firing.items():
            scalars[f'firing_rate/{name}'] = f.rate
            scalars[f'dead/{name}'] = f.dead / f.channels
            scalars[f'saturated/{name}'] = f.saturated / f.channels
        if firing:
            layers = firing.values()
            elements = sum(f.elements for f in layers)
            channels = sum(f.channels for f in layers)
            scalars['firing_rate/all'] = sum(
                f.rate * f.elements for f in layers) / elements
            scalars['dead/all'] = sum(f.dead for f in layers) / channels
            scalars['saturated/all'] = sum(
                f.saturated for f in layers) / channels
        return scalars

    @torch.no_grad()
    def _step_drift(self) -> dict[str, float]:
        if not self.quantized:
            return {}
        drift = torch.stack([
            (layer.positive_step_size() / self._first_steps[name] -
             1).abs().mean() for name, layer in self.quantized.items()
        ]).cpu()
        names = [f'step_drift/{name}' for name in (*self.quantized, 'all')]
        return dict(zip(names, [*drift.tolist(), float(drift.mean())]))

    def _gradient_norms(self, runner) -> dict[str, float]:
        """Return the norm of each part; warn if gradients explode.

        A loss scaler tries scales that are too large, and leaves out the
        step; what else makes a gradient infinite is NonFiniteHook's.
        """
        norms = {part: float(sum(squares))**0.5 / self._scale
                 for part, squares in self._squares.items() if squares}
        if not all(map(math.isfinite, norms.values())):
            return {}  # no step was made with them
        stages = [n for part, n in norms.items() if '.stages.' in part]
        if len(stages) > 1 and not self._exploded and \
                stages[0] > EXPLODED * stages[-1] > 0:
            self._exploded = True
            print_log(
                f'iteration {runner.iter + 1}: the gradient grows '
                f'{stages[0] / stages[-1]:.0f} times on its way from the last '
                'stage of the backbone to the first, so clipping leaves '
                "little for the last. Neurons with threshold='learned' keep "
                'its scale; tools/visualize.py gradients shows where it grows',
                logger='current', level=WARNING)
        return {f'gradient_norm/{part}': n for part, n in norms.items()}

    def _warn_full(self, firing: dict[str, Firing], iteration: int) -> None:
        """Warn once about layers that are always at their largest count."""
        full = {k for k, f in firing.items() if f.rate > FULL_RATE}
        new = full - self._full
        self._full = full
        if new:
            print_log(
                f'iteration {iteration}: saturated, at {FULL_RATE:.0%} of the '
                'largest count or more: '
                f'{", ".join(k for k in firing if k in new)}. No gradient '
                'passes a count that is the largest. Give the neuron a larger '
                "threshold, or threshold='learned'",
                logger='current', level=WARNING)

    def _warn(self, firing: dict[str, Firing], iteration: int) -> None:
        """Warn when layers die; log when they are back."""
        silent = {k for k, f in firing.items() if f.dead == f.channels}
        back = (self._silent & firing.keys()) - silent
        died = silent - self._silent
        self._silent = (self._silent - back) | silent
        when = f'iteration {iteration}: '
        if died:
            print_log(
                f'{when}silent in the last {self.window} iterations: '
                f'{", ".join(k for k in firing if k in died)}. No spike gets '
                'through, so nothing behind learns from there. Lower the '
                'learning rate or warm up longer, look at the norm or conv '
                'before the neuron, or give the neuron a smaller threshold',
                logger='current', level=WARNING)
        if back:
            print_log(f'{when}fires again: '
                      f'{", ".join(k for k in firing if k in back)}',
                      logger='current')
        if not firing and not self._warned:
            self._warned = True
            print_log(
                f'{when}SpikeMonitorHook saw no neuron run. A compiled model '
                'hides its modules: train without compile to monitor it',
                logger='current', level=WARNING)
