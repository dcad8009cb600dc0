"""Look at all of a data set before a training does.

    for report in check_config(Config.fromfile('my_config.py')):
        print_report(report, Console())
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ..utils.frameworks import check_framework
from .check_boxes import check_coco, check_voc
from .check_labels import check_folder, check_pairs
from .images import inspect_image
from .layout import Part, find_parts
from .report import Report
from .sources import leaf_datasets

CHECKS = dict(
    folder=check_folder, coco=check_coco, pairs=check_pairs, voc=check_voc)


def check_part(part: Part,
               title: str = '',
               inspect: Callable = inspect_image,
               progress: bool = True) -> Report:
    """Read all images and annotations of a part.

    Args:
        part (Part): Classes are noted in it, if it had none.
        title (str): What it is called in the report. Default: its name.
        inspect (Callable): How to look at an image. Default: decode it.
        progress (bool): Show progress, if on a terminal. Default: True.
    """
    report = Report(title or f'{part.name}: {part.annotations or part.images}')
    CHECKS[part.kind](part, report, inspect, progress)
    return report


def check_path(kind: str, root: str | Path,
               classes: tuple[str, ...] | None = None,
               ignore_zero: bool = False,
               progress: bool = True) -> list[Report]:
    """Check a data set in one of the usual layouts, see ``layout``.

    Args:
        kind (str): 'folder', 'coco', 'pairs' or 'voc'.
        root (str | Path): Its folder.
        classes (tuple[str], optional): Names in the order of their labels.
            Default: those of ``classes.txt``, or those found in training.
        ignore_zero (bool): Pairs: label 0 is no class. Default: False.
        progress (bool): Show progress, if on a terminal. Default: True.

    Raises:
        FileNotFoundError: If there is no such layout.
    """
    parts = find_parts(kind, root, classes, ignore_zero)
    reports = [check_part(part, progress=progress) for part in parts]
    compare_parts(parts, reports)
    return reports


def compare_parts(parts: list[Part], reports: list[Report]) -> None:
    """Note lists of classes that differ between training and validation."""
    first = parts[0].classes
    for part, report in zip(parts[1:], reports[1:]):
        if part.kind != 'pairs' and first is not None \
                and part.classes is not None \
                and set(part.classes) != set(first):
            different = sorted(set(first) ^ set(part.classes))
            report.add('class list', report.name, 'not in both parts: '
                       + ', '.join(different[:10]))


def check_config(cfg: Config, parts: Iterable[str] = ('train', 'val', 'test'),
                 progress: bool = True) -> list[Report]:
    """Check every data set that a config's loaders name, each once.

    Args:
        cfg (Config): Of any of the three frameworks.
        parts (Iterable[str]): Loaders to look at. Default: all three.
        progress (bool): Show progress, if on a terminal. Default: True.

    Raises:
        ImportError: If the framework is not there.
    """
    check_framework(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    reports, seen, checked = [], [], []
    for name in parts:
        loader = cfg.get(f'{name}_dataloader') or {}
        for dataset in leaf_datasets(loader.get('dataset')):
            key = {k: v for k, v in dataset.items() if k not in (
                'pipeline', 'test_mode', 'filter_cfg')}
            if key in seen:
                continue
            seen.append(key)
            report, part = _check_dataset(dataset, name, progress)
            reports.append(report)
            if part is not None:
                compare_with_model(cfg, part, report)
                checked.append((part, report))
    if checked:
        compare_parts(*map(list, zip(*checked)))
    return reports


def _check_dataset(dataset: dict, name: str,
                   progress: bool) -> tuple[Report, Part | None]:
    title = f'{name}: {dataset["type"]} {dataset.get("data_root") or ""}'
    report = Report(title.strip())
    try:
        part = part_of(dataset, name)
    except Exception as error:  # what a data set raises when it is built
        report.add('unreadable annotation', report.name,
                   f'{type(error).__name__}: {error}')
        return report, None
    if part is None:
        report.add('not checked', report.name)
        return report, None
    return check_part(part, report.name, progress=progress), part


def part_of(dataset: dict, name: str) -> Part | None:
    """What a data set of a config will read; None for unknown types.

    Args:
        dataset (dict): Config of a data set.
        name (str): What to call the part.
    """
    with DATASETS.switch_scope_and_registry(None) as registry:
        made_by = dataset['type']
        if isinstance(made_by, str):
            made_by = registry.get(made_by)
        bases = {base.__name__ for base in made_by.__mro__}
    if not bases & {'CustomDataset', 'CocoDataset', 'XMLDataset',
                    'BaseSegDataset'}:
        return None
    made = DATASETS.build(dict(dataset, pipeline=[], lazy_init=True))
    classes = made.metainfo.get('classes')
    classes = None if classes is None else tuple(classes)
    if 'CustomDataset' in bases:
        samples = [(s['img_path'], s.get('gt_label', 0))
                   for s in made.load_data_list()]
        if classes is None:
            classes = tuple(made.metainfo.get('classes') or ())
        return Part('folder', name, Path(made.img_prefix), classes=classes,
                    samples=samples)
    if 'CocoDataset' in bases:
        masks = any(step.get('with_mask') for step in dataset['pipeline'])
        return Part('coco', name, Path(made.data_prefix['img']),
                    Path(made.ann_file), classes=classes, masks=masks)
    if 'XMLDataset' in bases:
        root = Path(made.sub_data_root)
        return Part('voc', name, root / made.img_subdir,
                    root / made.ann_subdir, Path(made.ann_file),
                    classes=classes)
    if made.label_map:  # a choice of the classes that the files have
        classes = tuple(type(made).METAINFO['classes'])
    return Part(
        'pairs', name, Path(made.data_prefix['img_path']),
        Path(made.data_prefix['seg_map_path']),
        Path(made.ann_file) if made.ann_file else None, classes,
        made.img_suffix, made.seg_map_suffix, made.reduce_zero_label)


def compare_with_model(cfg: Config, part: Part, report: Report) -> None:
    """Note a model that was made for another number of classes."""
    numbers = set(class_numbers(cfg.get('model', {})))
    wrong = sorted(numbers - {len(part.classes or ())})
    if part.classes and wrong:
        report.add('class list', report.name, f'the model has num_classes '
                   f'{wrong[0]}, the data {len(part.classes)} classes')


def class_numbers(part: object) -> Iterator[int]:
    """Every num_classes of a model but the proposals'."""
    if isinstance(part, dict):
        if isinstance(part.get('num_classes'), int):
            yield part['num_classes']
        part = [value for key, value in part.items() if key != 'rpn_head']
    if isinstance(part, (list, tuple)):
        for each in part:
            yield from class_numbers(each)
