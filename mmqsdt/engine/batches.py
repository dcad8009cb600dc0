"""How many images there are in the batches of a data loader."""

from torch.utils.data import DataLoader


def check_batches(runner) -> None:
    """Check that there is something to train on, and to validate on.

    The data sets are built here once; the runner then uses the same ones.

    Raises:
        ValueError: If a data set is empty, or no batch is complete.
    """
    loaders = dict(train_dataloader=runner.train_dataloader)
    if runner.val_loop is not None:
        loaders['val_dataloader'] = runner.val_dataloader
    for name, loader in loaders.items():
        if not isinstance(loader, DataLoader):
            continue
        if not len(loader.dataset):
            raise ValueError(
                f'{name}: the data set is empty. Its annotations name no '
                'image, or its filter_cfg leaves out all of them '
                '(filter_empty_gt=True leaves out images without a box)')
        if not len(loader):
            raise ValueError(
                f'{name} gives no batch: {length(loader)} images do not fill '
                f'a batch of {batch_size(loader)}, and drop_last=True leaves '
                'out a batch that is not full; take a smaller batch_size')


def smallest_batch(loader: DataLoader) -> int:
    """Return how many images the smallest batch of a loader has."""
    size = batch_size(loader)
    batches = loader.batch_sampler
    # An infinite sampler fills every batch. Those of mmengine and of mmdet
    # have this method.
    if batches is None or getattr(batches, 'drop_last', False) or \
            hasattr(_sampler(loader), '_infinite_indices'):
        return size
    return length(loader) % size or size


def _sampler(loader: DataLoader):
    """Return the sampler of indices; with a batch_sampler, its inner one."""
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)


def length(loader: DataLoader) -> int:
    """Return how many images this process sees in an epoch."""
    return len(_sampler(loader))


def batch_size(loader: DataLoader) -> int:
    """Return how many images a batch has, unless it is the last one."""
    return getattr(loader.batch_sampler, 'batch_size', loader.batch_size) or 1
