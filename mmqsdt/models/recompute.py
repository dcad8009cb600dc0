"""Recompute blocks in the backward pass, to save memory (``with_cp``)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block without keeping what its backward pass needs.

    The backward pass runs it again. Batch norms see the batch once only.
    """
    return checkpoint(
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), kept_statistics(block)))


@contextmanager
def kept_statistics(module: nn.Module) -> Iterator[None]:
    """Keep batch norms from updating twice when a block is recomputed."""
    norms = [
        (m, m.momentum, m.num_batches_tracked.clone())
        for m in module.modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats
    ]
    # Not track_running_stats = False: that would save fewer tensors for the
    # backward pass than the first forward did.
    for norm, _, _ in norms:
        norm.momentum = 0.
    try:
        yield
    finally:
        for norm, momentum, batches in norms:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
