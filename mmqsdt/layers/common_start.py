"""One start for the learned thresholds of all processes.

A neuron starts from the batch of its own process and does not wait for the
others, which may not come: they leave the branch out, or have no region for
the head. The step of an optimizer is what all of them reach together. Before
it, one value for all is made of what each has seen.
"""

from weakref import WeakSet

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

_neurons: WeakSet[nn.Module] = WeakSet()
_hooked: list = []


def follow(neuron: nn.Module) -> None:
    """Have a neuron with a learned threshold take part.

    In every process, whether it has started or not. It has
    ``log_threshold``, and ``seen``: sum and number of the absolute
    potentials that it started from, (0, 0) if it has not, None if all
    processes have the same threshold already.
    """
    _neurons.add(neuron)
    if not _hooked:
        _hooked.append(register_optimizer_step_pre_hook(_agree))


@torch.no_grad()
def _agree(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    """Sum over all processes; a neuron that none has reached waits on."""
    if get_world_size() == 1:
        return
    waiting = {id(neuron.log_threshold): neuron for neuron in _neurons
               if neuron.seen is not None}
    # The optimizer has them in the same order everywhere.
    neurons = [waiting[id(p)] for group in optimizer.param_groups
               for p in group['params'] if id(p) in waiting]
    if not neurons:
        return
    seen = torch.tensor([neuron.seen for neuron in neurons],
                        device=neurons[0].log_threshold.device)
    all_reduce(seen)
    for neuron, (total, number) in zip(neurons, seen.tolist()):
        if number:
            neuron.start_from(total, number)
            neuron.seen = None
