"""A config for data of one's own: a child of one that ships.

It names the paths and the classes, and sets num_classes wherever the model
has it, which is up to five places.
"""

import json
import os
from pathlib import Path

from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode

from ..utils.configs import find_config, get_config_path
from .check import class_numbers
from .check_boxes import read_objects, read_xml
from .images import inspect_label_map
from .layout import Part, find_parts, read_lines

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


class Code(str):
    """Text that goes into the config as it is."""


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
    if len(classes) < MIN_CLASSES[kind]:
        raise ValueError(f'{root}: {len(classes)} classes ({classes}), at '
                         f'least {MIN_CLASSES[kind]} are needed')
    masks = kind == 'coco' and has_masks(train.annotations)
    if base is None:
        base = BASES['coco_boxes' if kind == 'coco' and not masks else kind]
    path = find_config(base)
    cfg = Config.fromfile(path)
    _check_base(cfg, base, kind, masks)
    text = _compose(kind, Path(root), (train, val), classes, cfg,
                    _base_path(path, out))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    written = Config.fromfile(out)
    numbers = set(class_numbers(written.model))
    if numbers != {len(classes)}:
        raise ValueError(f'{base}: num_classes {numbers} could not all be '
                         f'set to {len(classes)}; see {out}')
    return written


def find_classes(kind: str, train: Part, val: Part) -> tuple[str, ...]:
    """The classes that the data themselves name.

    Raises:
        ValueError: For pairs, whose label maps have numbers only.
    """
    if kind == 'folder':
        return tuple(sorted(p.name for p in train.images.iterdir()
                            if p.is_dir()))
    if kind == 'coco':
        content = json.loads(train.annotations.read_text())
        return tuple(c['name'] for c in content['categories'])
    if kind == 'voc':
        return tuple(sorted({
            name for part in (train, val) for stem in read_lines(part.names)
            for name, _ in read_objects(
                read_xml(part.annotations / f'{stem}.xml'))
        }))
    values = set()
    for path in sorted(train.annotations.rglob('*.png'))[:LOOKED_AT]:
        values |= set(inspect_label_map(path).counts)
    raise ValueError(
        f'name the classes of {train.annotations}, in the order of their '
        'labels: --classes sky,ground, or a line each in classes.txt. The '
        f'first label maps have the values {sorted(values)}')


def has_masks(path: Path) -> bool:
    """Whether every annotation of a COCO json has a segmentation."""
    found = json.loads(path.read_text())['annotations']
    return bool(found) and all(a.get('segmentation') for a in found)


def _check_base(cfg: Config, base: str, kind: str, masks: bool) -> None:
    scope = cfg.get('default_scope')
    if scope != SCOPES[kind]:
        raise ValueError(f'{base} is for {scope}; {kind} needs a config for '
                         f'{SCOPES[kind]}, such as {BASES[kind]}')
    if kind in ('coco', 'voc') and not masks and has_mask_head(cfg.model):
        raise ValueError(f'{base} learns masks, and not all annotations have '
                         f'one; for boxes: --base {BASES["coco_boxes"]}')


def has_mask_head(part: object) -> bool:
    """Whether a model, or a part of one, learns masks."""
    if isinstance(part, dict):
        return part.get('mask_head') is not None or any(
            map(has_mask_head, part.values()))
    return isinstance(part, (list, tuple)) and any(map(has_mask_head, part))


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
    sets = {
        part.name: _dataset(kind, root, part, masks) for part in parts
    }
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
    model = class_overrides(cfg.model, len(classes), '_base_.model')
    lines.append(f'model = {render(model)}')
    return FormatCode('\n'.join(lines) + '\n', style_config=dict(
        based_on_style='pep8', column_limit=79))[0]


def _dataset(kind: str, root: Path, part: Part, masks: bool) -> dict:
    def inside(path: Path) -> str:
        return Path(os.path.relpath(path, root)).as_posix()

    dataset = dict(
        _delete_=True,
        type=dict(folder='ImageNet', coco='CocoDataset', voc='XMLDataset',
                  pairs='BaseSegDataset')[kind],
        data_root=Code('data_root'),
        metainfo=Code('metainfo'))
    if kind == 'folder':
        dataset['data_prefix'] = inside(part.images)
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
    else:
        dataset.update(
            ann_file=inside(part.names), data_prefix=dict(sub_data_root=''))
    if kind in ('coco', 'voc'):
        if part.name == 'train':
            dataset['filter_cfg'] = dict(filter_empty_gt=True, min_size=8)
        else:
            dataset['test_mode'] = True
    pipeline = f'_base_.{part.name}_dataloader.dataset.pipeline'
    if kind in ('coco', 'voc') and not masks:
        pipeline = ("[dict(step, with_mask=False) if step['type'] == "
                    f"'LoadAnnotations' else step for step in {pipeline}]")
    dataset['pipeline'] = Code(pipeline)
    return dataset


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


def class_overrides(part: object, classes: int, where: str) -> object:
    """What a child config must say to change a model's number of classes.

    Args:
        part (object): A model, or a part of one.
        classes (int): The new number.
        where (str): The expression that is this part in a child config.

    Returns:
        dict | Code | None: None if nothing in it depends on the number.
    """
    if isinstance(part, dict):
        found = {}
        if isinstance(part.get('num_classes'), int):
            found['num_classes'] = classes
        if isinstance(part.get('class_weight'), (list, tuple)):
            found['class_weight'] = None  # they were of the other classes
        for key, value in part.items():
            if key != 'rpn_head':  # tells objects from none
                inner = class_overrides(value, classes, f'{where}.{key}')
                if inner is not None:
                    found[key] = inner
        return found or None
    if isinstance(part, (list, tuple)):
        found = [class_overrides(each, classes, '') for each in part]
        if any(found):
            # The config's own merging would replace the list.
            return Code(f'[dict(each, num_classes={classes}) for each in '
                        f'{where}]')
    return None


def render(value: object) -> str:
    """Python text of a value, dictionaries as ``dict(...)``."""
    if isinstance(value, dict):
        return 'dict(' + ', '.join(
            f'{k}={render(v)}' for k, v in value.items()) + ')'
    return value if isinstance(value, Code) else repr(value)
