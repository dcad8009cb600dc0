"""A training that was interrupted ends as if it had not been."""

import signal

import torch
from torch.utils.data import DataLoader

from experiments.torture.interruption import interrupt
from experiments.torture.training import kill_while_writing, send_at
from mmqsdt.engine.data_order import SeededBatches, get_seeded


def test_sigterm_in_the_middle_of_an_epoch_with_ema(workplace):
    assert not interrupt(workplace, 'epochs_ema',
                         send_at(signal.SIGTERM, 'before_train_iter', 4), 143)


def test_kill_while_a_checkpoint_is_half_written_with_workers(workplace):
    assert not interrupt(workplace, 'iterations_workers',
                         kill_while_writing('half', 3), 137)


class Noise(torch.utils.data.Dataset):

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return i, torch.rand(()).item()


def batches(position: int = 0, skip: int = 0, workers: int = 2,
            seed: int = 0) -> list:
    loader = DataLoader(Noise(), batch_size=2, num_workers=workers,
                        collate_fn=list)
    vars(loader)['batch_sampler'] = SeededBatches(
        loader.batch_sampler, seed, 0, position, skip)
    loader.dataset.__getitems__ = lambda indices: get_seeded(
        loader.dataset, indices)
    assert len(loader) == 6
    return list(loader)


def test_augmentation_is_a_function_of_seed_and_iteration():
    whole = batches()
    assert batches(workers=1) == whole
    assert batches(position=4, skip=4) == whole[4:]
    numbers = {value for batch in whole for _, value in batch}
    assert len(numbers) == 12
    other = {value for batch in batches(seed=1) for _, value in batch}
    assert not numbers & other


def test_skipped_batches_come_again_in_the_next_epoch():
    sampler = SeededBatches([[0], [1], [2]], 0, 0, 1, 1)
    assert [list(b) for b in sampler] == [[1], [2]]
    assert [list(b) for b in sampler] == [[0], [1], [2]]
