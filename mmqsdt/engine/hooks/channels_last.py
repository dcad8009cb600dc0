"""Train in the memory format that is faster on CPUs."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from ...registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Run a model in the channels_last memory format.

    Only the order of values in memory changes. Convolutions then run a third
    faster on CPU; docs/performance.md has the figures.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        """Set the format of the weights; the maps follow."""
        model = runner.model
        if not is_model_wrapper(model):
            model.to(memory_format=torch.channels_last)
            return
        # DDP lays out its gradient buffers like the weights at the time it
        # wraps the model. If the weights' layout changes later, DDP mixes up
        # the elements of the gradients.
        model = model.module.to(memory_format=torch.channels_last)
        runner.model = runner.wrap_model(
            runner.cfg.get('model_wrapper_cfg'), model)
