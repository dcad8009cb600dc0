"""Training with spikes and quantised weights stored as integers."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import nn

from .deploy.kernels import find_kernel_obstacle
from .layers import IELIF
from .registry import HOOKS


def store_integers(model: nn.Module, kernels: bool = True) -> nn.Module:
    """Have a model keep integers instead of floats while it is trained.

    Spikes of IE-LIF neurons take one byte instead of four, and so do the
    quantised weights that are multiplied with them, from the forward to the
    backward pass. Values and gradients are the same, bit for bit. With
    kernels, convolutions that read spikes multiply counts with codes on the
    integer kernels of a CPU, in the channels_last format and in float32:
    faster, and equal up to the rounding of float32.

    Nothing changes in evaluation, in checkpoints, under ``torch.compile``,
    in layers with float weights, in binary LIF neurons, and with several
    time steps.

    Args:
        model (nn.Module): Changed in place.
        kernels (bool): Use the integer kernels where this machine has them.
            Defaults to True.

    Returns:
        nn.Module: The model.
    """
    obstacle = find_kernel_obstacle() if kernels else None
    if obstacle:
        print_log(f'integers are stored, but multiplied as floats: '
                  f'{obstacle}', 'current')
    storage = 'kernel' if kernels and not obstacle else 'bytes'
    for module in model.modules():
        if isinstance(module, IELIF):
            module.storage = storage
    return model


@HOOKS.register_module()
class IntegerTrainingHook(Hook):
    """:func:`store_integers` for a training run.

    Args:
        kernels (bool): See there. Defaults to True.

    Example::

        >>> custom_hooks = [dict(type='mmqsdt.IntegerTrainingHook'),
        ...                 dict(type='mmqsdt.ChannelsLastHook')]
    """

    def __init__(self, kernels: bool = True) -> None:
        self.kernels = kernels

    def before_train(self, runner) -> None:
        """Switch the model over."""
        store_integers(runner.model, self.kernels)
