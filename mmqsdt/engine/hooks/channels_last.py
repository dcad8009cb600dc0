"""A model in the memory format that is faster on CPUs."""

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
        # DDP lays out its buffers of gradients as the weights are when it is
        # made. If they change later it mixes up the elements of a gradient.
        model = model.module.to(memory_format=torch.channels_last)
        runner.model = runner.wrap_model(
            runner.cfg.get('model_wrapper_cfg'), model)
