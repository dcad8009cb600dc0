"""What a process of two does; a module, so that it can be started anew."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed

PATIENCE = timedelta(seconds=120)  # after which a process counts as hung


def join_over_gloo(rank: int, function: Callable, folder: Path,
                   args: tuple) -> None:
    """Join another process, then call a function."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2,
        timeout=PATIENCE)
    function(rank, folder, *args)
    torch.distributed.destroy_process_group()
