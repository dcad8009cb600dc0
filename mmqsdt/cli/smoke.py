"""Any config for a few iterations on the digits: does all of it run?"""

from copy import deepcopy

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ..data.classes import can_be_looked_at, class_counts, walk
from ..data.sources import check_data, dataset_paths, leaf_datasets
from ..utils.configs import get_config_path

# scope of a config -> the digits data of its task
DIGITS = dict(
    mmpretrain='_base_/datasets/digits_cls.py',
    mmdet='_base_/datasets/digits_instance.py',
    mmseg='_base_/datasets/digits_semantic.py')
ITERATIONS = 4
BATCH_SIZE = 2  # batch norms over 1 x 1 maps need two
QUERIES = 100


def smoke(cfg: Config, own_data: bool = False) -> str:
    """Turn a config into a short run of the same model.

    The model stays what it is but for its number of classes, its queries and
    the size that images are padded to; so do the optimizer, its schedule and
    the hooks. The data sets, their pipelines and metrics are those of the
    digits, four iterations of two images and a validation on as many.

    Args:
        cfg (Config): Changed in place. Its framework is imported.
        own_data (bool): Take the config's own data instead, if they are
            there: then nothing but the length is changed.
            Defaults to False.

    Returns:
        str: What was changed, in one line.

    Raises:
        FileNotFoundError: If the digits are not there.
        ValueError: If the digits are no input for such a model.
    """
    scope = cfg.get('default_scope')
    backbone = cfg.get('model', {}).get('backbone', {})
    if own_data and scope in DIGITS and data_are_here(cfg):
        images = shorten(cfg)
        return (f'smoke: {ITERATIONS} iterations on {images} images of its '
                'own data; its scores mean nothing')
    if scope not in DIGITS or not backbone:
        raise ValueError(f'--smoke has digits for {", ".join(DIGITS)}; this '
                         f'config is for {scope}, or has no backbone')
    if backbone.get('in_channels', 3) != 3:
        raise ValueError('--smoke has pictures of 3 channels; this model '
                         f'reads {backbone.in_channels}')
    digits = Config.fromfile(get_config_path(DIGITS[scope]))
    replaced = next(leaf_datasets(cfg.train_dataloader.dataset))
    replaced = f'{replaced.type} ({replaced.get("data_root", "")})'
    take_data(cfg, digits)
    check_data(cfg, ('train', 'val'))
    images = shorten(cfg)
    classes = len(digits.train_dataloader.dataset.metainfo.classes)
    before = set_classes(cfg.model, classes)
    fit_sizes(cfg, digits)
    limit_queries(cfg.model)
    text = (f'smoke: {ITERATIONS} iterations on {images} digits images in '
            f'place of {replaced}, {classes} classes in place of '
            f'{" or ".join(map(str, sorted(before)))}')
    hooks = cfg.get('custom_hooks') or []
    kept = [hook for hook in hooks if 'Distill' not in str(hook.type)]
    if len(kept) < len(hooks):
        cfg.custom_hooks = kept
        text += ', no teacher'
    return text + '; its scores mean nothing'


def data_are_here(cfg: Config) -> bool:
    """Return whether training and validation can read what they name."""
    return all(path.exists() for part in ('train', 'val')
               for dataset in leaf_datasets(cfg[f'{part}_dataloader'].dataset)
               for path in dataset_paths(dataset))


def fit_sizes(cfg: Config, digits: Config) -> None:
    """Pad to the size of the digits where a model pads to a fixed one."""
    preprocessor = cfg.model.get('data_preprocessor') or {}
    steps = {step.type: step for step in digits.train_pipeline}
    if 'size' in preprocessor:  # mmseg pads to that of the crops
        preprocessor.size = steps['RandomCrop'].crop_size
    for augment in preprocessor.get('batch_augments') or []:
        if augment.type == 'BatchFixedSizePad':
            augment.size = steps['Resize'].scale
        elif 'random_sizes' in augment or 'random_size_range' in augment:
            preprocessor.batch_augments = None  # of other sizes
            break


def limit_queries(part: object) -> None:
    """Allow no more queries than maps of small images have places."""
    if isinstance(part, dict):
        if isinstance(part.get('num_queries'), int):
            part['num_queries'] = min(part['num_queries'], QUERIES)
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for each in part:
            limit_queries(each)


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
    """Train a few iterations, then validate; return the number of images."""
    images = ITERATIONS * BATCH_SIZE
    init_default_scope(cfg.default_scope)
    for part in ('train', 'val', 'test'):
        loader = cfg.get(f'{part}_dataloader')
        if not loader:
            continue
        if loader.get('batch_size'):
            loader.batch_size = min(loader.batch_size, BATCH_SIZE)
        for dataset in leaf_datasets(loader.dataset):
            if not can_be_looked_at(dataset):
                continue
            whole = DATASETS.build(dict(dataset, pipeline=[]))
            # Spread: the first images of a folder set are all of one class.
            number = min(images, len(whole))
            dataset.indices = [
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
    before = set()
    for count in list(class_counts(model)):
        before.add(count.number)
        count.part['num_classes'] = classes
    for _, part in walk(model):
        if 'num_things_classes' in part:  # MaskFormer and its children
            before.add(part['num_things_classes']
                       + part['num_stuff_classes'])
            part.update(num_things_classes=classes, num_stuff_classes=0)
        weights = part.get('class_weight')
        if isinstance(weights, (list, tuple)):
            # One for each class; the last may be for what is no object.
            kept = weights[-1:] if len(weights) - 1 in before else []
            if len(weights) - len(kept) != classes:
                part['class_weight'] = [1.0] * classes + list(kept)
    tests = model.get('test_cfg') or {}
    if tests.get('panoptic_on') is not None:
        tests.update(panoptic_on=False, instance_on=True)
    return before
