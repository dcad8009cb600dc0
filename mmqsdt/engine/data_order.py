"""Data that depend on the seed and the iteration, and on nothing else.

mmengine's worker processes draw their augmentation from random numbers that
run on from batch to batch, so that after a resumption they start again. Here
a batch carries the seed of its own augmentation with it into the worker.
Without worker processes the random numbers are those of the training itself,
which a checkpoint holds.
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
        seed (int): For every generator of the worker.
    """
    seed: int


class SeededBatches:
    """A batch sampler whose batches know their seed.

    Args:
        batches: The batch sampler itself; all else is asked of it.
        seed (int): Of the training.
        rank (int): Of this process.
        position (int): Iteration of the first batch.
        skip (int): Batches to leave out, once. Nothing of them is loaded.
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
        if name == 'batches':  # not there yet, while being unpickled
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
    """Have a training loop give its data by seed and iteration.

    Args:
        runner (Runner): About to train; its loop stands where it resumes.
        resumed (dict, optional): What a checkpoint says: 'epoch_iter',
            iterations done of an epoch that was left half way, and
            'epoch_length'. None for a new training.
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
    # DataLoader guards these attributes against being set after its making,
    # because worker processes may be running. None are, yet.
    vars(loader)['batch_sampler'] = SeededBatches(
        loader.batch_sampler, runner.seed, runner.rank,
        0 if counted else loop.iter, skip)
    if loader.num_workers:
        loader.dataset.__getitems__ = partial(get_seeded, loader.dataset)
    if loader.num_workers or skip or (resumed and not by_epoch):
        # To start a loader draws a number. In a training that was never
        # interrupted it was drawn before the checkpoint.
        loader.generator = torch.Generator().manual_seed(runner.seed)
    if runner.val_loop is not None and runner.val_loop.dataloader.num_workers:
        runner.val_loop.dataloader.generator = torch.Generator().manual_seed(
            runner.seed)


def follow_random_numbers(loop) -> None:
    """Once a loader without workers is started, have it draw as ever."""
    loader = loop.dataloader
    if isinstance(loader, DataLoader) and not loader.num_workers:
        loader.generator = None
