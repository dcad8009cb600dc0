"""Any config for a few iterations on the digits: does all of it run?"""

from copy import deepcopy

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ..data.classes import class_counts
from ..data.sources import check_data
from ..utils.configs import get_config_path

# scope of a config -> the digits data of its task
DIGITS = dict(
    mmpretrain='_base_/datasets/digits_cls.py',
    mmdet='_base_/datasets/digits_instance.py',
    mmseg='_base_/datasets/digits_semantic.py')
ITERATIONS = 4
BATCH_SIZE = 2  # batch norms over 1 x 1 maps need two


def smoke(cfg: Config) -> str:
    """Turn a config into a short run of the same model on the digits.

    The model stays what it is but for its number of classes; so do the
    optimiser, its schedule and the hooks. The data sets, their pipelines and
    metrics are those of the digits, four iterations of two images and a
    validation on as many.

    Args:
        cfg (Config): Changed in place. Its framework is imported.

    Returns:
        str: What was changed, in one line.

    Raises:
        FileNotFoundError: If the digits are not there.
        ValueError: If the digits are no input for such a model.
    """
    scope = cfg.get('default_scope')
    backbone = cfg.get('model', {}).get('backbone', {})
    if scope not in DIGITS or not backbone:
        raise ValueError(f'--smoke has digits for {", ".join(DIGITS)}; this '
                         f'config is for {scope}, or has no backbone')
    if backbone.get('in_channels', 3) != 3:
        raise ValueError('--smoke has pictures of 3 channels; this model '
                         f'reads {backbone.in_channels}')
    digits = Config.fromfile(get_config_path(DIGITS[scope]))
    replaced = cfg.train_dataloader.dataset
    replaced = f'{replaced.type} ({replaced.get("data_root", "")})'
    take_data(cfg, digits)
    check_data(cfg, ('train', 'val'))
    images = shorten(cfg)
    classes = len(digits.train_dataloader.dataset.metainfo.classes)
    before = set_classes(cfg.model, classes)
    if 'size' in cfg.model.get('data_preprocessor', {}):
        # mmseg pads to this size, which is that of the crops.
        cfg.model.data_preprocessor.size = next(
            step.crop_size for step in digits.train_pipeline
            if step.type == 'RandomCrop')
    text = (f'smoke: {ITERATIONS} iterations on {images} digits images in '
            f'place of {replaced}, {classes} classes in place of '
            f'{" or ".join(map(str, sorted(before)))}')
    hooks = cfg.get('custom_hooks') or []
    kept = [hook for hook in hooks if 'Distill' not in str(hook.type)]
    if len(kept) < len(hooks):
        cfg.custom_hooks = kept
        text += ', no teacher'
    return text + '; its scores mean nothing'


def take_data(cfg: Config, digits: Config) -> None:
    """Loaders and metrics of the digits, for this model's kind of results."""
    metric = cfg.val_evaluator.get('metric') \
        if isinstance(cfg.val_evaluator, dict) else None
    for part in ('train', 'val', 'test'):
        # Assigned whole: a merge would keep entries of the old ones.
        cfg[f'{part}_dataloader'] = deepcopy(digits[f'{part}_dataloader'])
    for part in ('val', 'test'):
        cfg[f'{part}_evaluator'] = deepcopy(digits[f'{part}_evaluator'])
        if metric is not None and cfg.default_scope == 'mmdet':
            cfg[f'{part}_evaluator'].metric = metric  # boxes only, or masks


def shorten(cfg: Config) -> int:
    """A few iterations, then a validation. Returns the number of images."""
    images = ITERATIONS * BATCH_SIZE
    init_default_scope(cfg.default_scope)
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        loader.batch_size = min(loader.batch_size, BATCH_SIZE)
        whole = DATASETS.build(dict(loader.dataset, pipeline=[]))
        # Spread: the first images of a folder set are all of one class.
        number = min(images, len(whole))
        loader.dataset.indices = [
            i * len(whole) // number for i in range(number)
        ]
    by_iteration = 'max_iters' in cfg.train_cfg
    cfg.train_cfg['max_iters' if by_iteration else 'max_epochs'] = \
        ITERATIONS if by_iteration else 1
    cfg.train_cfg.val_interval = ITERATIONS if by_iteration else 1
    cfg.default_hooks.logger.interval = 1
    return images


def set_classes(model: dict, classes: int) -> set[int]:
    """Set every num_classes at any depth but the proposals'.

    Returns:
        set[int]: The numbers that were there.
    """
    counts = list(class_counts(model))
    for count in counts:
        count.part['num_classes'] = classes
    return {count.number for count in counts}
