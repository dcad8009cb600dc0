"""What is left of training on stored integers: its name in configs."""

from mmengine.hooks import Hook
from mmengine.logging import print_log

from ...registry import HOOKS


@HOOKS.register_module()
class IntegerTrainingHook(Hook):
    """Accept configs of before; train as without it.

    It stored spikes and quantized weights as bytes while training. That
    gained neither time nor memory and was taken out, see
    docs/performance.md.

    Args:
        kernels (bool): Ignored. Defaults to True.
    """

    def __init__(self, kernels: bool = True) -> None:
        pass

    def before_train(self, runner) -> None:
        """Say that nothing happens."""
        print_log(
            'IntegerTrainingHook does nothing any more: storing integers '
            'made no training faster or smaller; remove it from '
            'custom_hooks', 'current', 30)
