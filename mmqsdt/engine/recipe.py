"""A recipe that fits the data and the machine, written with its reasons.

The configs that ship are made for a hundred thousand images and several
GPUs. Here arch, size of the images, batch, length and learning rate follow
from how many images there are, how large they are and what the machine has.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from PIL import Image

from ..checkpoints.atomic import write_text
from ..data.files import files_in
from ..data.layout import Part
from ..models.backbones import ARCHS
from ..models.channels import fields, maps_of
from ..utils.build import build_model
from ..utils.python_text import format_code, render
from ..utils.text import read_json, read_lines, read_text
from .estimate import (
    SHARE,
    Cost,
    cores,
    duration,
    free_memory,
    gigabytes,
    measure_cost,
    training_size,
)

LOOKED_AT = 50  # images, to know how large they are
# Fewer images than this: that arch. More parameters would only remember.
SMALL = ((200, 'tiny'), (2000, '8m'))
STEPS = 2000  # that a training from scratch needs, at least
PATIENCE = 12 * 3600  # seconds on a CPU, before a smaller arch is taken
WANTED_BATCH = 16
# task -> side of the images at most: on a GPU as the config says, on a CPU
CPU_SIDE = dict(mmpretrain=128, mmdet=480, mmseg=256)


@dataclass(frozen=True)
class Machine:
    """What a training runs on.

    Attributes:
        cuda (bool): Whether there is a GPU.
        cores (int): Processors.
        memory (int): Free bytes, of the GPU if there is one.
    """
    cuda: bool
    cores: int
    memory: int

    @classmethod
    def here(cls) -> 'Machine':
        """Describe this one."""
        cuda = torch.cuda.is_available()
        return cls(cuda, cores(),
                   free_memory('cuda' if cuda else 'cpu') or 8 * 10**9)

    def __str__(self) -> str:
        kind = 'a GPU' if self.cuda else f'a CPU with {self.cores} cores'
        return f'{kind} and {gigabytes(self.memory)} of free memory'


@dataclass(frozen=True)
class Recipe:
    """What is written into a config, and why.

    Attributes:
        arch (str): Of the backbone.
        side (int): Of the images: of a crop, or the short side of a scene.
        batch (int): Images of a step.
        accumulate (int): Steps whose gradients are added up.
        epochs (int): Passes over the data.
        steps (int): In all.
        lr (float): Of the optimizer.
        workers (int): Processes that load images.
        why (dict[str, str]): Name of an attribute -> the reason.
    """
    arch: str
    side: int
    batch: int
    accumulate: int
    epochs: int
    steps: int
    lr: float
    workers: int
    why: dict[str, str]


def count_images(part: Part) -> int:
    """Count the images of a part."""
    if part.names is not None:
        return len(read_lines(part.names))
    if part.kind == 'coco':
        return len(read_json(part.annotations).get('images') or ())
    return len(images_of(part))


def images_of(part: Part) -> list[Path]:
    """List the files of a part's images."""
    if part.kind == 'folder':
        return [path for folder in sorted(part.images.iterdir())
                if folder.is_dir() for path in files_in(folder)]
    return files_in(part.images)


def refuse_empty(parts: list[Part]) -> None:
    """Refuse a part without images.

    Raises:
        ValueError: Names the folder, or the class whose folder is empty.
    """
    for part in parts:
        if not count_images(part):
            raise ValueError(f'{part.images}: no images for {part.name}; '
                             'expected .jpg, .png or such there')
        if part.kind == 'folder':
            empty = [f.name for f in sorted(part.images.iterdir())
                     if f.is_dir() and not f.name.startswith('.')
                     and not files_in(f)]
            if empty and part.name == 'train':
                raise ValueError(
                    f'{part.images}: no images of {", ".join(empty)}; put '
                    'some there, or remove the folder')


def usual_size(part: Part) -> tuple[int, int]:
    """Return height and width of the median image of the first ones."""
    sizes = []
    for path in images_of(part)[:LOOKED_AT]:
        try:
            with Image.open(path) as image:
                sizes.append((image.height, image.width))
        except OSError:
            continue
    if not sizes:
        return 512, 512
    return tuple(sorted(values)[len(values) // 2] for values in zip(*sizes))


def choose_recipe(cfg: Config, images: int, size: tuple[int, int],
                  machine: Machine, costs) -> Recipe:
    """Fit a recipe.

    Args:
        cfg (Config): That trains on the data, with the settings of its base.
        images (int): To train on.
        size (tuple[int, int]): Height and width of the usual one.
        machine (Machine): Where.
        costs (Callable[[str], Cost]): Of an arch.
    """
    why = {}
    base = cfg.model.backbone.get('arch', '15m')
    arch = next((name for limit, name in SMALL if images < limit), base)
    if isinstance(base, str) and list(ARCHS).index(arch) > \
            list(ARCHS).index(base):
        arch = base
    if arch != base:
        why['arch'] = (f'{images} images: a smaller network learns them as '
                       'well, and sooner.')
    wanted = training_size(cfg) or (512, 512)
    side, limit = min(wanted), min(size)
    if limit < side:
        why['side'] = (f'The usual image has {size[0]} x {size[1]} pixels: '
                       'none is enlarged.')
    if not machine.cuda and CPU_SIDE[cfg.default_scope] < min(side, limit):
        limit = CPU_SIDE[cfg.default_scope]
        why['side'] = 'On a CPU: time grows with the pixels.'
    side = max(32, min(side, limit) // 32 * 32)
    pixels = side * side * (1 if cfg.default_scope != 'mmdet' else 4 / 3)

    def length(arch: str, batch: int) -> tuple[int, int, float]:
        per_epoch = max(1, images // batch)
        if 'max_iters' in cfg.train_cfg:
            steps = min(cfg.train_cfg.max_iters, max(STEPS, 100 * per_epoch))
        else:
            steps = per_epoch * cfg.train_cfg.max_epochs
            steps = min(max(steps, STEPS), per_epoch * 300)
        epochs = max(1, round(steps / per_epoch))
        seconds = costs(arch).seconds * pixels * batch * steps
        return epochs, steps if 'max_iters' in cfg.train_cfg else \
            epochs * per_epoch, seconds

    cap = min(WANTED_BATCH, cfg.train_dataloader.batch_size, max(
        2, images // 4))
    if cap < cfg.train_dataloader.batch_size:
        why['batch'] = f'{images} images: four steps an epoch or more.'
    names = list(ARCHS)
    while True:
        cost: Cost = costs(arch)
        fitting = int((SHARE * machine.memory - cost.fixed)
                      / (pixels * cost.saved))
        batch = max(1, min(cap, fitting))
        epochs, steps, seconds = length(arch, batch)
        smaller = names[names.index(arch) - 1] if arch in names[1:] else None
        if smaller is None or not (
                fitting < 1 or not machine.cuda and seconds > PATIENCE):
            break
        arch = smaller
        why['arch'] = ('On this machine a larger one would not fit, or train '
                       f'for more than {duration(PATIENCE)}.')
    if batch < cap:
        why['batch'] = (
            f'More images of {side} pixels do not fit: backbone and neck '
            f'take {gigabytes(cost.memory(batch * pixels))}.')
    accumulate = max(1, math.ceil(min(cap, 8) / batch))
    if accumulate > 1:
        why['accumulate'] = 'Gradients of several steps, as of one batch.'
    seen = (cfg.get('auto_scale_lr') or {}).get(
        'base_batch_size') or cfg.train_dataloader.batch_size
    lr = cfg.optim_wrapper.optimizer.lr
    if batch * accumulate != seen:
        factor = math.sqrt(batch * accumulate / seen)
        lr = float(f'{lr * factor:.2g}')
        why['lr'] = (f'A batch of {batch * accumulate} instead of {seen}: '
                     'smaller steps, by the square root.')
    why['epochs'] = (f'{steps} steps' + (
        '.' if machine.cuda else f', about {duration(seconds)} here at '
        'least.'))
    workers = 0 if machine.cores < 4 else min(4, machine.cores // 2)
    why['workers'] = 'Processes for loading would only compete.' \
        if not workers else f'Of {machine.cores} cores.'
    return Recipe(arch, side, batch, accumulate, epochs, steps, lr, workers,
                  why)


def recipe_text(cfg: Config, recipe: Recipe, images: int,
                size: tuple[int, int], machine: Machine) -> str:
    """Write the lines that make a config's recipe, each with its reason."""
    why = {k: f'# {v}' for k, v in recipe.why.items()}
    lines = [
        '', f'# Fitted to {images} training images of about {size[1]} x '
        f'{size[0]} pixels, on', f'# {machine}.']
    if 'arch' in why:
        backbone = dict(cfg.model.backbone, arch=recipe.arch)
        changed = dict(cfg.model, backbone=backbone)
        lines += [why['arch'],
                  f"model.setdefault('backbone', {{}})['arch'] = "
                  f'{recipe.arch!r}']
        for field in fields(changed, maps_of(backbone)):
            place = 'model' + ''.join(
                f'.setdefault({key!r}, {{}})' for key in field.path[:-1])
            lines.append(f'{place}[{field.path[-1]!r}] = {field.expected!r}')
    if 'side' in why:
        lines += [why['side'], *size_lines(cfg, recipe.side)]
    workers = recipe.workers
    loader = dict(batch_size=recipe.batch, num_workers=workers,
                  persistent_workers=workers > 0)
    lines += [why.get('batch', '# The batch of the base.'),
              f'train_dataloader.update(batch_size={recipe.batch})',
              why['workers'],
              *(f'{part}_dataloader.update(num_workers={workers}, '
                f'persistent_workers={loader["persistent_workers"]})'
                for part in ('train', 'val'))]
    optim = dict(optimizer=dict(lr=recipe.lr))
    if recipe.accumulate > 1:
        optim['accumulative_counts'] = recipe.accumulate
        lines.append(why['accumulate'])
    lines += [why.get('lr', '# The learning rate of the base.'),
              f'optim_wrapper = {render(optim)}', why['epochs']]
    warm = max(1, min(500, recipe.steps // 10))
    if 'max_iters' in cfg.train_cfg:
        interval = max(1, recipe.steps // 10)
        lines += [
            f'train_cfg = dict(max_iters={recipe.steps}, '
            f'val_interval={interval})',
            f'default_hooks = dict(checkpoint=dict(interval={interval}))']
    else:
        interval = max(1, recipe.epochs // 20)
        lines.append(f'train_cfg = dict(max_epochs={recipe.epochs}, '
                     f'val_interval={interval})')
    schedule = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0,
             end=warm),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=warm,
             end=recipe.steps, T_max=recipe.steps - warm)]
    lines.append(f'param_scheduler = {render(schedule)}')
    return '\n'.join(lines) + '\n'


def size_lines(cfg: Config, side: int) -> list[str]:
    """Write the lines that set the size of the images."""
    def changed(part: str, steps: dict[str, dict]) -> str:
        place = f"{part}_dataloader['dataset']['pipeline']"
        table = ', '.join(f'{k!r}: {render(v)}' for k, v in steps.items())
        return (f"{place} = [dict(step, **{{{table}}}.get(step['type'], {{}}))"
                f' for step in {place}]')

    if cfg.default_scope == 'mmpretrain':
        edge = dict(scale=math.ceil(side * 8 / 7))
        return [changed('train', dict(RandomResizedCrop=dict(scale=side))),
                changed('val', dict(ResizeEdge=edge,
                                    CenterCrop=dict(crop_size=side)))]
    if cfg.default_scope == 'mmseg':
        scale = dict(scale=(4 * side, side))
        return ["model['data_preprocessor'] = dict(size="
                f'({side}, {side}))',
                changed('train', dict(
                    RandomResize=scale,
                    RandomCrop=dict(crop_size=(side, side)))),
                changed('val', dict(Resize=scale))]
    # Detection: the steps that load, and simpler ones behind them.
    scale = (side * 5 // 3, side)
    place = "train_dataloader['dataset']['pipeline']"
    return [f"{place} = [*{place}[:2], dict(type='RandomFlip', prob=0.5), "
            f"dict(type='RandomResize', scale={scale}, "
            f'ratio_range=(0.8, 1.25), keep_ratio=True), {place}[-1]]',
            changed('val', dict(Resize=dict(scale=scale)))]


def fit_config(path: str | Path, cfg: Config, train: Part,
               machine: Machine | None = None) -> Recipe | None:
    """Add a recipe to a config that was written for a data set.

    Args:
        path (str | Path): Of the config.
        cfg (Config): It, as read.
        train (Part): Of the data.
        machine (Machine, optional): Default: this one.

    Returns:
        Recipe | None: None where the backbone is not one of ``ARCHS``: then
        the config stays as it is.
    """
    if maps_of(cfg.model.backbone) is None or cfg.model.backbone.get(
            'arch', '15m') not in list(ARCHS):
        return None
    machine = machine or Machine.here()
    known: dict[str, Cost] = {}

    def costs(arch: str) -> Cost:
        if arch not in known:
            known[arch] = arch_cost(cfg, arch)
        return known[arch]

    images, size = count_images(train), usual_size(train)
    recipe = choose_recipe(cfg, images, size, machine, costs)
    write_text(path, format_code(
        read_text(path) + recipe_text(cfg, recipe, images, size, machine)))
    return recipe


def arch_cost(cfg: Config, arch: str) -> Cost:
    """Measure what a backbone of an arch and the neck of a config take."""
    backbone = dict(cfg.model.backbone, arch=arch)
    backbone.pop('init_cfg', None)
    neck = cfg.model.get('neck')
    if isinstance(neck, dict) and 'in_channels' in neck:
        neck = dict(neck, in_channels=list(maps_of(backbone).channels))
    else:
        neck = None
    parts = [build_model(Config(dict(
        model=part, default_scope=cfg.default_scope)))
        for part in (backbone, neck) if part]
    return measure_cost(*parts)
