"""Build the model of a config, and load batches of its data."""

from copy import deepcopy

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config in eval mode, with initial weights.

    Raises:
        ValueError: If the config has no model.
    """
    if 'model' not in cfg:
        raise ValueError('the config has no model')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return MODELS.build(cfg.model).eval()


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside of wrappers such as DDP."""
    while is_model_wrapper(model):
        model = model.module
    return model


def input_channels(model: nn.Module) -> int:
    """Return the number of channels of the images that a network reads."""
    return getattr(getattr(model, 'backbone', model), 'in_channels', 3)


def load_batches(cfg: Config, part: str, images: int) -> list:
    """Load the first batches of a data loader of the config.

    Args:
        cfg (Config): Of any of the three frameworks.
        part (str): 'train', 'val' or 'test'.
        images (int): Least number of images, if there are as many.

    Raises:
        ValueError: If the config has no such loader, or images < 1.
    """
    loader = deepcopy(cfg.get(f'{part}_dataloader'))
    if not loader or images < 1:
        raise ValueError(f'the config has no {part}_dataloader' if images > 0
                         else f'images must be at least 1, got {images}')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader.batch_size = min(loader.batch_size, images, 8)
    loader.num_workers = 0
    loader.pop('persistent_workers', None)
    loader.pop('prefetch_factor', None)
    batches, count = [], 0
    for batch in Runner.build_dataloader(loader):
        batches.append(batch)
        count += len(batch['inputs'])
        if count >= images:
            break
    return batches
