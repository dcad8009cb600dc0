"""One set of running statistics for all processes."""

from mmengine.dist import all_reduce_params, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...registry import HOOKS


@HOOKS.register_module()
class AverageStatisticsHook(Hook):
    """Give all processes the same running statistics of batch norms.

    Each process normalises its own images while it trains, and its running
    mean and variance follow those. Here they become the mean over all
    processes after every iteration, so that all validate the same network,
    and it is the one in the checkpoint. The average is linear in the
    statistics, so averaging often gives what averaging at the end would.

    Synchronised and frozen batch norms are the same everywhere already and
    are left alone. With one process nothing happens.
    """

    priority = 'ABOVE_NORMAL'  # before moving averages copy, or files are

    def before_train(self, runner) -> None:
        """Look up the batch norms."""
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        self.norms = [
            m for m in model.modules() if isinstance(m, _BatchNorm)
            and not isinstance(m, nn.SyncBatchNorm) and m.track_running_stats
        ]

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        """Average what this iteration has moved."""
        if get_world_size() > 1:
            all_reduce_params(self._moving(), op='mean')

    def _moving(self) -> list[Tensor]:
        return [x for norm in self.norms if norm.training
                for x in (norm.running_mean, norm.running_var)]
