"""One set of running statistics for all processes."""

from mmengine.dist import all_reduce_params, get_world_size
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...registry import HOOKS
from ...utils.build import unwrap


@HOOKS.register_module()
class AverageStatisticsHook(Hook):
    """Give all processes the same running statistics of batch norms.

    In training each process normalizes its own images and updates its own
    running mean and variance. After every iteration this hook replaces them
    by their mean over all processes. So all processes validate the same
    network, which is also the one in the checkpoint. As the update is linear,
    averaging after every iteration gives what averaging at the end would.

    Synchronized and frozen batch norms are the same in all processes and are
    left alone. With one process nothing happens.
    """

    # Before the weights are averaged (EMA) or saved.
    priority = 'ABOVE_NORMAL'

    def before_train(self, runner) -> None:
        """Look up the batch norms."""
        model = unwrap(runner.model)
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
