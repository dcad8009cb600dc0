"""The name of a removed hook, which configs may still have."""

from mmengine.hooks import Hook
from mmengine.logging import print_log

from ...registry import HOOKS


@HOOKS.register_module()
class IntegerTrainingHook(Hook):
    """Do nothing, so that older configs still run.

    The hook stored spikes and quantized weights as bytes in training. That
    saved neither time nor memory, so it was removed; see
    docs/performance.md.

    Args:
        kernels (bool): Ignored. Defaults to True.
    """

    def __init__(self, kernels: bool = True) -> None:
        pass

    def before_train(self, runner) -> None:
        """Say that nothing happens."""
        print_log(
            'IntegerTrainingHook does nothing any more, because storing '
            'integers saved neither time nor memory; remove it from '
            'custom_hooks', 'current', 30)
