"""The first step of a compiled training runs as it is written."""

import torch
from mmengine.hooks import Hook

from ...registry import HOOKS


@HOOKS.register_module()
class EagerFirstStepHook(Hook):
    """Run the first training step without ``torch.compile``.

    A learned threshold starts from the values of its first batch, which no
    graph can hold: compiled before, the model would be cut at every neuron,
    and compiled anew once it has started. For trainings with ``compile`` in
    their config; without it nothing changes.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        """Hold the compiler back."""
        torch.compiler.set_stance('force_eager')

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        """Everything has started."""
        torch.compiler.set_stance('default')

    def after_train(self, runner) -> None:
        """Let the compiler go where there was no step."""
        torch.compiler.set_stance('default')
