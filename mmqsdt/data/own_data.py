"""Write a config for custom data: a child of a shipped config.

It names the paths and the classes, and sets num_classes wherever the model
has it, which is up to five places.
"""

import os
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from ..checkpoints.atomic import write_text
from ..utils.configs import find_config, get_config_path
from ..utils.frameworks import check_framework
from ..utils.python_text import Code, format_code, render
from ..utils.text import read_json, read_lines
from .classes import check_names, class_counts, walk
from .files import files_in, folders_in
from .layout import Part, find_parts
from .questions import has_mask_head

# What a config is the child of, if none is named.
BASES = dict(
    folder='cls/qsdt-learned_imagenet',
    coco='det/qsdt-learned_maskrcnn_coco',
    coco_boxes='det/qsdt-learned_retinanet_coco',
    pairs='seg/qsdt-learned_fpn_ade20k',
    voc='det/qsdt-learned_retinanet_coco')
SCOPES = dict(
    folder='mmpretrain', coco='mmdet', pairs='mmseg', voc='mmdet')
MIN_CLASSES = dict(folder=2, coco=1, pairs=2, voc=1)
LOOKED_AT = 20  # label maps, to say which values there are


def write_config(kind: str,
                 root: str | Path,
                 out: str | Path,
                 base: str | None = None,
                 classes: tuple[str, ...] | None = None,
                 ignore_zero: bool = False) -> Config:
    """Write a config that trains on a data set in one of the usual layouts.

    Args:
        kind (str): 'folder', 'coco', 'pairs' or 'voc', see ``layout``.
        root (str | Path): Folder of the data set.
        out (str | Path): The config to write, .py.
        base (str, optional): Path or name of the config to start from.
            Default: see ``BASES``.
        classes (tuple[str], optional): Names in the order of their labels.
            Default: those of classes.txt in the folder, or those found.
        ignore_zero (bool): Pairs: label 0 is no class. Default: False.

    Returns:
        Config: As it was written, and read again.

    Raises:
        FileNotFoundError: If the layout or the base config is not there.
        ValueError: If ``out`` exists or is no .py, or the base is for
            another task or cannot learn from these annotations.
    """
    out = Path(out)
    if out.suffix != '.py' or out.exists():
        raise ValueError(f'{out} exists; remove it or name another'
                         if out.exists() else f'{out} must end in .py')
    train, val = find_parts(kind, root, classes, ignore_zero)
    classes = train.classes or find_classes(kind, train, val)
    wrong = check_names(classes)
    if len(classes) < MIN_CLASSES[kind]:
        wrong.append(f'{len(classes)} classes {classes}, at least '
                     f'{MIN_CLASSES[kind]} are needed')
    if wrong:
        raise ValueError(f'{root}: {"; ".join(wrong)}')
    masks = kind == 'coco' and has_masks(train.annotations)
    if base is None:
        base = BASES['coco_boxes' if kind == 'coco' and not masks else kind]
    path = find_config(base)
    cfg = Config.fromfile(path)
    check_framework(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    _check_base(cfg, base, kind, masks)
    text = _compose(kind, Path(root), (train, val), classes, cfg,
                    _base_path(path, out))
    write_text(out, text)
    try:
        written = Config.fromfile(out)
        numbers = {count.number for count in class_counts(written.model)}
        if numbers != {len(classes)}:
            raise ValueError(f'{base}: num_classes {numbers} could not all '
                             f'be set to {len(classes)}')
    except BaseException:
        out.unlink()  # else it would be in the way of the next try
        raise
    return written


def find_classes(kind: str, train: Part, val: Part) -> tuple[str, ...]:
    """Read the classes that the data themselves name.

    Raises:
        ValueError: For pairs, whose label maps have numbers only.
    """
    if kind == 'folder':
        return tuple(folders_in(train.images))
    if kind == 'coco':
        listed = read_json(train.annotations).get('categories') or ()
        return tuple(category.get('name') for category in listed)
    if kind == 'voc':
        names = set()
        for part in (train, val):
            for stem in read_lines(part.names):
                # A file that cannot be read is for the check to name.
                with suppress(OSError, ElementTree.ParseError):
                    tree = ElementTree.parse(  # noqa: S314
                        part.annotations / f'{stem}.xml')
                    names |= {name.text for name in tree.iterfind(
                        'object/name')}
        return tuple(sorted(filter(None, names)))
    values = set()
    for path in files_in(train.annotations)[:LOOKED_AT]:
        with suppress(OSError), Image.open(path) as image:
            values |= set(np.unique(np.asarray(image)).tolist())
    raise ValueError(
        f'name the classes of {train.annotations}, in the order of their '
        'labels: --classes sky,ground, or a line each in classes.txt. The '
        f'first label maps have the values {sorted(values)}')


def has_masks(path: Path, some: bool = False) -> bool:
    """Whether every annotation of a COCO json has a segmentation.

    Args:
        path (Path): The json.
        some (bool): One that has it will do. Default: False.
    """
    found = read_json(path).get('annotations') or ()
    have = [bool(box.get('segmentation')) for box in found]
    return any(have) if some else bool(have) and all(have)


def _check_base(cfg: Config, base: str, kind: str, masks: bool) -> None:
    scope = cfg.get('default_scope')
    if scope != SCOPES[kind]:
        raise ValueError(f'{base} is for {scope}; {kind} needs a config for '
                         f'{SCOPES[kind]}, such as {BASES[kind]}')
    if kind in ('coco', 'voc') and not masks and has_mask_head(cfg.model):
        raise ValueError(f'{base} learns masks, and not all annotations have '
                         f'one; for boxes: --base {BASES["coco_boxes"]}')


def _base_path(path: str, out: Path) -> str:
    """Relative in a checkout, else absolute."""
    path, here = Path(path).resolve(), Path.cwd()
    shipped = Path(get_config_path())
    if shipped.is_relative_to(here) or not path.is_relative_to(shipped):
        return Path(os.path.relpath(path, out.resolve().parent)).as_posix()
    return path.as_posix()


def _compose(kind: str, root: Path, parts: tuple[Part, Part],
             classes: tuple[str, ...], cfg: Config, base: str) -> str:
    masks = has_mask_head(cfg.model)
    sets = {}
    for part in parts:
        pipeline = f'_base_.{part.name}_dataloader.dataset.pipeline'
        if kind in ('coco', 'voc') and not masks:
            pipeline = ("[dict(step, with_mask=False) if step['type'] == "
                        f"'LoadAnnotations' else step for step in {pipeline}]")
        sets[part.name] = dict(
            _delete_=True,
            **dict(compose_dataset(kind, root, part),
                   data_root=Code('data_root'), metainfo=Code('metainfo'),
                   pipeline=Code(pipeline)))
    lines = [
        f'# {len(classes)} classes of {root.as_posix()}, written by '
        f'tools/prepare_data.py config {kind}.',
        f'_base_ = {base!r}',
        f'data_root = {root.as_posix() + "/"!r}',
        f'metainfo = dict(classes={tuple(classes)!r})',
    ]
    for name, dataset in sets.items():
        lines.append(f'{name}_dataloader = '
                     + render(dict(dataset=dataset)))
    lines.append('test_dataloader = val_dataloader')
    metric = _metric(kind, root, parts[1], cfg, len(classes))
    if metric:
        lines += [f'val_evaluator = {render(metric)}',
                  'test_evaluator = val_evaluator']
    model = class_overrides(cfg.model, len(classes))
    lines.append(f'model = {render(model)}')
    return format_code('\n'.join(lines) + '\n')


def compose_dataset(kind: str, root: Path, part: Part,
                    masks: bool = False) -> dict:
    """Make the data set config of a part, for its framework.

    Args:
        kind (str): See :func:`write_config`.
        root (Path): Folder of the data set.
        part (Part): Of it.
        masks (bool): Its pipeline, which loads only, loads masks too.
            Default: False.
    """
    def inside(path: Path) -> str:
        return Path(os.path.relpath(path, root)).as_posix()

    dataset = dict(
        type=dict(folder='ImageNet', coco='CocoDataset', voc='XMLDataset',
                  pairs='BaseSegDataset')[kind],
        data_root=root.as_posix(),
        metainfo=dict(classes=part.classes))
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    if kind == 'folder':
        dataset['data_prefix'] = inside(part.images)
        load.pop()
    elif kind == 'pairs':
        dataset.update(
            data_prefix=dict(img_path=inside(part.images),
                             seg_map_path=inside(part.annotations)),
            img_suffix=part.image_suffix,
            reduce_zero_label=part.ignore_zero)
    elif kind == 'coco':
        dataset.update(
            ann_file=inside(part.annotations),
            data_prefix=dict(img=inside(part.images)))
        load[1].update(with_bbox=True, with_mask=masks)
    else:
        dataset.update(
            ann_file=inside(part.names), data_prefix=dict(sub_data_root=''))
        load[1]['with_bbox'] = True
    if kind in ('coco', 'voc'):
        if part.name == 'train':
            dataset['filter_cfg'] = dict(filter_empty_gt=True, min_size=8)
        else:
            dataset['test_mode'] = True
    return dict(dataset, pipeline=load)


def _metric(kind: str, root: Path, val: Part, cfg: Config,
            classes: int) -> dict:
    if kind == 'coco':
        path = Path(os.path.relpath(val.annotations, root)).as_posix()
        return dict(ann_file=Code(f'data_root + {path!r}'))
    if kind == 'voc':
        return dict(_delete_=True, type='VOCMetric', metric='mAP',
                    eval_mode='area')
    topk = cfg.val_evaluator.get('topk')
    if kind == 'folder' and topk and max(topk) > classes:
        return dict(topk=tuple(k for k in topk if k <= classes))
    return {}


def class_overrides(model: dict, classes: int) -> dict:
    """Return the overrides that change a model's number of classes.

    Args:
        model (dict): Of the base.
        classes (int): The new number.
    """
    changes: dict = {}
    counts = {count.path for count in class_counts(model)}
    for path, part in walk(model):
        new = dict(num_classes=classes) if path in counts else {}
        if isinstance(part.get('class_weight'), (list, tuple)):
            new['class_weight'] = None  # they were of the other classes
        place = changes
        for depth, key in enumerate(path if new else ()):
            if depth + 1 < len(path) and isinstance(path[depth + 1], int):
                # The config's own merging would replace the list.
                where = '.'.join(('_base_.model', *path[:depth + 1]))
                place[key] = Code(f'[dict(each, num_classes={classes}) for '
                                  f'each in {where}]')
                break
            place = place.setdefault(key, {})
        else:
            place.update(new)
    return changes
