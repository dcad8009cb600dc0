"""Training and testing with several processes.

The group of processes is formed before anything is looked at, so that what
one of them finds wrong ends all. On CPUs, where MMEngine asks CUDA for a
device all the same, the processes of torchrun are joined over gloo.
"""

import datetime
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, init_dist

TORCHRUN = 'torchrun --nproc-per-node N tools/train.py CONFIG ' \
    '--launcher pytorch'


def join_processes(cfg: Config) -> None:
    """Form the group of processes, if a launcher is named.

    On accelerators as MMEngine does it, on CPUs over gloo. A backend or model
    wrapper that the config names is kept, except NCCL, which does not run on
    CPUs.

    Args:
        cfg (Config): With ``launcher``; changed in place.

    Raises:
        ValueError: If torchrun was used without ``--launcher pytorch``,
            where each process would train alone and write the same files;
            if the launcher was named but did not start this process; or, on
            CPUs, if it is another than torchrun, or sync_bn is set.
    """
    started = int(os.environ.get('WORLD_SIZE', 1))
    if cfg.launcher == 'none':
        if started > 1:
            raise ValueError(
                f'{started} processes were started, and each would train '
                f'alone: add --launcher pytorch\n  {TORCHRUN}')
        return
    if cfg.launcher == 'pytorch' and not {'RANK', 'WORLD_SIZE', 'MASTER_ADDR'
                                          } <= os.environ.keys():
        raise ValueError('--launcher pytorch is for processes that torchrun '
                         f'starts:\n  {TORCHRUN}')
    options = dict((cfg.get('env_cfg') or {}).get('dist_cfg') or {})
    if get_device() != 'cpu':
        if not torch.distributed.is_initialized():
            init_dist(cfg.launcher, **options)
        return
    if cfg.launcher != 'pytorch':
        raise ValueError(f'--launcher {cfg.launcher} needs an accelerator; '
                         f'on CPUs:\n  {TORCHRUN}')
    if cfg.get('sync_bn'):
        raise ValueError('sync_bn works on GPUs only; without it, batch norm '
                         'statistics of all processes are averaged')
    if options.get('backend', 'nccl') == 'nccl':
        options['backend'] = 'gloo'
    if 'timeout' in options:
        options['timeout'] = datetime.timedelta(seconds=options['timeout'])
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(**options)
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))
    if wrapper.get('type') == 'MMDistributedDataParallel':
        wrapper.setdefault('device_ids', None)  # DDP's sign for CPUs
    cfg.model_wrapper_cfg = wrapper


@contextmanager
def ends_together() -> Iterator[None]:
    """End all processes where one of them cannot go on.

    For work before a training in which processes do not wait for each other.
    Some of it only the first one does. If it alone ended, the others would
    wait for it until a timeout, where their launcher does not end them.

    Raises:
        ValueError: In the others, with the cause.
    """
    try:
        yield
    except Exception as error:
        all_gather_object(str(error) or type(error).__name__)
        raise
    for rank, cause in enumerate(all_gather_object('')):
        if cause:
            raise ValueError(f'process {rank} cannot go on: {cause}')


class LostWorkerError(RuntimeError):
    """A process of a data loader ended without having been asked to."""


@contextmanager
def name_lost_workers() -> Iterator[None]:
    """Raise one error for all that the loss of a worker looks like.

    Which one PyTorch raises depends on what the worker was doing: that the
    worker was killed, or that a connection or a shared file is gone.

    Raises:
        LostWorkerError: Says what to do.
    """
    try:
        yield
    except (OSError, EOFError, RuntimeError) as error:
        files = [f.filename for f in traceback.extract_tb(error.__traceback__)]
        in_loader = any('torch/utils/data/' in f for f in files)
        lost = 'DataLoader worker' in str(error) or isinstance(
            error, (ConnectionError, EOFError)) or (
                isinstance(error, FileNotFoundError)
                and any('multiprocessing' in f for f in files))
        if not in_loader or not lost:
            raise
        raise LostWorkerError(
            f'a worker process of a data loader was lost ({error}). Most '
            'often memory ran out: look at the kernel log and at /dev/shm, '
            'use fewer workers (--cfg-options train_dataloader.num_workers=N '
            'val_dataloader.num_workers=N), and continue with --resume'
        ) from error
