"""Give every iteration the same data, whether a training was resumed or not.

The worker processes of mmengine draw the numbers for augmentation from one
sequence that goes on from batch to batch. After a resumption it begins anew,
and the data differ. Here each batch takes a seed for its own augmentation
with it into the worker, made of the training's seed and the iteration.
Without worker processes the numbers come from the training itself, whose
random states are in the checkpoint.
"""

import random
from collections.abc import Iterator
from functools import partial
from itertools import islice

import numpy as np
import torch
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader, Dataset, get_worker_info


class SeededBatch(list):
    """The indices of a batch, and the seed of its augmentation.

    Attributes:
        seed (int): Of all random number generators of the worker.
    """
    seed: int


class SeededBatches:
    """A batch sampler whose batches know their seed.

    Args:
        batches: The batch sampler itself; other attributes are its own.
        seed (int): Of the training.
        rank (int): Of this process.
        position (int): Iteration of the first batch.
        skip (int): Batches to leave out in the first epoch, without loading
            them.
    """

    def __init__(self, batches, seed: int, rank: int, position: int,
                 skip: int) -> None:
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.position = position
        self.skip = skip

    def __iter__(self) -> Iterator[SeededBatch]:
        skip, self.skip = self.skip, 0
        for indices in islice(iter(self.batches), skip, None):
            batch = SeededBatch(indices)
            words = np.random.SeedSequence(
                (self.seed, self.rank, self.position))
            batch.seed = int(words.generate_state(1, np.uint64)[0])
            self.position += 1
            yield batch

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str):
        if name == 'batches':  # unpickling asks before it is set
            raise AttributeError(name)
        return getattr(self.batches, name)


def get_seeded(dataset: Dataset, indices: list[int]) -> list:
    """Load the samples of a batch, with the random numbers of that batch."""
    if get_worker_info() is not None and isinstance(indices, SeededBatch):
        random.seed(indices.seed)
        np.random.seed(indices.seed % 2**32)
        torch.manual_seed(indices.seed)
    return [dataset[i] for i in indices]


def order_data(runner, resumed: dict | None) -> None:
    """Make the data of a training loop depend on seed and iteration alone.

    Args:
        runner (Runner): About to train; its loop is at the iteration to
            begin with.
        resumed (dict, optional): From the checkpoint: 'epoch_iter',
            iterations done of an unfinished epoch, and 'epoch_length'. None
            for a new training.
    """
    loop = runner.train_loop
    loader = loop.dataloader
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    skip = 0
    if by_epoch and resumed is not None and resumed['epoch_iter']:
        if resumed['epoch_length'] == len(loader):
            skip = resumed['epoch_iter']
        else:
            runner.logger.warning(
                f'The checkpoint was saved after {resumed["epoch_iter"]} of '
                f'{resumed["epoch_length"]} iterations of an epoch; now it '
                f'has {len(loader)}: this epoch starts again.')
    # Without such a sampler mmengine itself counts up to the iteration.
    counted = not by_epoch and not hasattr(loader.sampler, 'skip')
    # DataLoader refuses to have these attributes set, because worker
    # processes may be running. None are running yet.
    vars(loader)['batch_sampler'] = SeededBatches(
        loader.batch_sampler, runner.seed, runner.rank,
        0 if counted else loop.iter, skip)
    if loader.num_workers:
        loader.dataset.__getitems__ = partial(get_seeded, loader.dataset)
    if loader.num_workers or skip or (resumed and not by_epoch):
        # A loader draws a number when it starts. An uninterrupted training
        # drew it before the checkpoint, so it must not be drawn again.
        loader.generator = torch.Generator().manual_seed(runner.seed)
    if runner.val_loop is not None and runner.val_loop.dataloader.num_workers:
        runner.val_loop.dataloader.generator = torch.Generator().manual_seed(
            runner.seed)


def follow_random_numbers(loop) -> None:
    """Give a loader without workers the training's generator back.

    To be called once the loader has started; see :func:`order_data`.
    """
    loader = loop.dataloader
    if isinstance(loader, DataLoader) and not loader.num_workers:
        loader.generator = None
