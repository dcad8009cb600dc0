"""What must agree between a config, its model, its data and a checkpoint.

One list, asked by every tool before anything is built:

    ask(cfg, ('train', 'val'))            # training
    ask(cfg, ('test', ), checkpoint)      # test, predict, energy, export
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from ..utils.configs import tool_command
from ..utils.frameworks import check_framework
from ..utils.text import describe
from .classes import (
    ClassCount,
    build_unread,
    can_be_looked_at,
    check_names,
    class_counts,
)
from .files import folders_in
from .report import ERROR, FAULTS
from .saved import compare_with_saved
from .sources import FIXED_FOLDERS, leaf_datasets

PARTS = ('train', 'val', 'test')
CHECK = f'{tool_command("prepare_data")} check CONFIG'


class Answer(NamedTuple):
    """Something that does not agree.

    Attributes:
        part (str): 'train', 'val', 'test'; '' if it is in none of them.
        fault (str): Of ``report.FAULTS``.
        text (str): What, where, and the remedy.
    """
    part: str
    fault: str
    text: str


class Leaf(NamedTuple):
    """An innermost data set of a config, built but not read.

    Attributes:
        part (str): Which loader reads it.
        title (str): What to call it.
        classes (tuple[str], optional): As it was built; those of its folders
            where the config names none.
        folders (tuple[str], optional): Of a folder for each class.
        source (dict): What its config says of where its samples come from.
    """
    part: str
    title: str
    classes: tuple[str, ...] | None
    folders: tuple[str, ...] | None
    source: dict


def ask(cfg: Config, parts: Iterable[str],
        checkpoint: str | None = None, trained: bool = True) -> None:
    """Refuse what does not agree, before anything is built.

    Args:
        cfg (Config): Of any of the three frameworks.
        parts (Iterable[str]): Whose data will be read.
        checkpoint (str, optional): What will be loaded; it must be there.
        trained (bool): The checkpoint is used as it is. False: a training
            starts from it, and may change what it was. Defaults to True.

    Raises:
        ImportError: If the framework is not there.
        ValueError: Names all that does not agree.
    """
    found: dict[tuple[str, str], list[str]] = {}  # -> the parts
    for part, fault, text in questions(cfg, parts, checkpoint, trained):
        found.setdefault((FAULTS[fault][0], text), []).append(part)
    wrong = []
    for (level, text), where in found.items():
        where = ', '.join(dict.fromkeys(filter(None, where)))
        text = f'{where}: {text}' if where else text
        if level == ERROR:
            wrong.append(text)
        elif is_main_process():
            print_log(text, 'current', level=30)
    if wrong:
        raise ValueError(
            'config, model and data do not agree:\n  ' + '\n  '.join(wrong)
            + f'\n  all that can be found: {CHECK}')


def questions(cfg: Config, parts: Iterable[str],
              checkpoint: str | None = None,
              trained: bool = True) -> Iterator[Answer]:
    """Ask all that is asked; see :func:`ask`."""
    check_framework(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    leaves = []
    for part in PARTS:
        for dataset in leaf_datasets(
                (cfg.get(f'{part}_dataloader') or {}).get('dataset')):
            if not can_be_looked_at(dataset):
                continue
            wrong = list(_written_names(part, dataset))
            try:
                leaf = _build(part, dataset)
            except ImportError:
                raise
            except Exception as error:  # what a data set refuses
                if part in parts and not wrong:
                    wrong = [Answer(part, 'unreadable annotation',
                                    describe(error))]
            else:
                leaves.append(leaf)
                if not wrong:
                    wrong = [Answer(part, 'class names', text)
                             for text in check_names(
                                 leaf.classes, any(_named(dataset)))]
                wrong += _folders(leaf)
            if part in parts:
                yield from wrong
    yield from _same_classes(leaves, parts)
    yield from _same_data(leaves, parts)
    model = cfg.get('model') or {}
    counts = list(class_counts(model))
    yield from _numbers(leaves, counts, parts)
    for part in parts:
        if cfg.get(f'{part}_dataloader'):
            yield from _masks(cfg, part)
            yield from _channels(cfg, part)
            yield from _scores(cfg, part, counts)
    if checkpoint:
        classes = next((leaf.classes for leaf in leaves
                        if leaf.part in parts), None)
        for fault, text in compare_with_saved(
                checkpoint, model, classes, trained):
            yield Answer('', fault, text)


def _named(dataset: dict) -> tuple:
    """Return the classes that a config itself names, in both places."""
    meta = dataset.get('metainfo') or {}
    return meta.get('classes'), dataset.get('classes')


def _written_names(part: str, dataset: dict) -> Iterator[Answer]:
    """Names as the config has them; a text may be the path of a list."""
    meta = dataset.get('metainfo') or {}
    for key in meta:
        if key not in ('classes', 'palette') and \
                key.lower() in ('classes', 'palette'):
            yield Answer(part, 'class names', f'metainfo has {key}, which '
                         f'nothing reads: write {key.lower()}')
    for classes in _named(dataset):
        if not (isinstance(classes, str) and Path(classes).is_file()):
            for text in check_names(classes):
                yield Answer(part, 'class names', text)


def _build(part: str, dataset: dict) -> Leaf:
    made = build_unread(dataset, pipeline=[])
    classes = made.metainfo.get('classes')
    folders = None
    # Where MMPretrain takes the folders for the classes, in their order.
    if getattr(made, 'with_label', False) and not made.ann_file and \
            os.path.isdir(made.img_prefix):
        folders = tuple(folders_in(made.img_prefix))
    if classes is None:
        classes = folders
    elif isinstance(classes, list):
        classes = tuple(classes)
    title = ' '.join(filter(None, (
        type(made).__name__, dataset.get('data_root'),
        dataset.get('ann_file'))))
    source = {key: value for key, value in dataset.items() if key not in (
        'pipeline', 'filter_cfg', 'metainfo', 'test_mode')}
    return Leaf(part, title, classes, folders, source)


def _folders(leaf: Leaf) -> list[Answer]:
    """Folders are numbered in the order of their names, whatever is said."""
    if leaf.folders is None or leaf.classes is None:
        return []
    if len(leaf.folders) != len(leaf.classes):
        return [Answer(
            leaf.part, 'class list', f'{leaf.title}: {len(leaf.folders)} '
            f'folders, but {len(leaf.classes)} classes')]
    if set(leaf.folders) == set(leaf.classes) and \
            leaf.folders != leaf.classes:
        index = next(i for i, pair in enumerate(zip(
            leaf.folders, leaf.classes)) if pair[0] != pair[1])
        return [Answer(
            leaf.part, 'class list', f'{leaf.title}: folders are numbered in '
            f'the order of their names, so {leaf.folders[index]!r} is class '
            f'{index}, which the list of classes calls '
            f'{leaf.classes[index]!r}; list them in that order')]
    return []


def _same_classes(leaves: list[Leaf],
                  parts: Iterable[str]) -> Iterator[Answer]:
    """All data sets against the first: those of a part, and the parts."""
    for what in ('classes', 'folders'):
        told = [leaf for leaf in leaves
                if isinstance(getattr(leaf, what), tuple)]
        for leaf in told[1:]:
            theirs, ours = getattr(told[0], what), getattr(leaf, what)
            if ours == theirs or leaf.part not in parts:
                continue
            first = f'{told[0].part}: {told[0].title}'
            different = sorted(map(str, set(ours) ^ set(theirs)))
            if different:
                text = f'{leaf.title} and {first} have different {what}: ' \
                    f'not in both: {", ".join(different[:10])}'
            else:
                text = f'{leaf.title} and {first} have the same {what} in ' \
                    f'another order: {ours[:5]}, {theirs[:5]}'
            yield Answer(leaf.part, 'class list', text)
            break


def _same_data(leaves: list[Leaf], parts: Iterable[str]) -> Iterator[Answer]:
    """Name parts whose score is that of images that were learned."""
    learned = [leaf.source for leaf in leaves if leaf.part == 'train']
    for leaf in leaves:
        # Those of fixed folders take another one in a test.
        if leaf.part in parts and leaf.part != 'train' and \
                leaf.source in learned and \
                leaf.source['type'] not in FIXED_FOLDERS:
            yield Answer(leaf.part, 'same data', f'{leaf.title} is what is '
                         'trained on, too')


def _numbers(leaves: list[Leaf], counts: list[ClassCount],
             parts: Iterable[str]) -> Iterator[Answer]:
    """Compare every head's number of classes with that of the data."""
    for part in parts:
        known = [leaf.classes for leaf in leaves
                 if leaf.part == part and isinstance(leaf.classes, tuple)]
        if not known:
            continue
        number = len(known[0])
        for path, head, count, said in counts:
            if count != number and not head.get('class_agnostic'):
                default = '' if said else ', its default'
                yield Answer(
                    part, 'class list', f'{_dotted(path)} has num_classes '
                    f'{count}{default}, the data {number} classes'
                    + _few_names(known[0]))
            losses = head.get('loss_decode') or ()
            for loss in [losses] if isinstance(losses, dict) else losses:
                weights = loss.get('class_weight')
                if isinstance(weights, (list, tuple)) and \
                        len(weights) != number:
                    yield Answer(
                        part, 'class list', f'{_dotted(path)}.loss_decode '
                        f'has {len(weights)} weights in class_weight, the '
                        f'data {number} classes')


def _dotted(path: tuple) -> str:
    return '.'.join(map(str, ('model', *path)))


def _few_names(classes: tuple) -> str:
    names = ', '.join(map(str, classes[:5]))
    return f' ({names}{", ..." if len(classes) > 5 else ""})'


def has_mask_head(model: object) -> bool:
    """Whether a model, or a part of one, learns masks."""
    if isinstance(model, dict):
        # MaskFormer's heads have a pixel decoder.
        return bool(model.get('mask_head') or model.get('pixel_decoder')) \
            or any(map(has_mask_head, model.values()))
    return isinstance(model, (list, tuple)) and any(map(has_mask_head, model))


def evaluators(cfg: Config, part: str) -> list[dict]:
    """Return the metrics of a part."""
    found = cfg.get(f'{part}_evaluator') or []
    return [found] if isinstance(found, dict) else list(found)


def has_truth(cfg: Config, part: str) -> bool:
    """Whether a part needs annotations: results alone are written else."""
    metrics = evaluators(cfg, part)
    return part == 'train' or not metrics or not all(
        metric.get('format_only') for metric in metrics)


def pipelines(cfg: Config, part: str) -> Iterator[list[dict]]:
    """Yield the pipeline of each innermost data set of a part."""
    for dataset in leaf_datasets(cfg[f'{part}_dataloader'].dataset):
        yield [step for step in dataset.get('pipeline') or ()
               if isinstance(step, dict)]


def _masks(cfg: Config, part: str) -> Iterator[Answer]:
    """Check that masks, a mask head and a score of masks go together."""
    head = has_mask_head(cfg.get('model'))
    if part == 'train' and head and cfg.get('default_scope') == 'mmdet':
        for steps in pipelines(cfg, part):
            if not any(step.get('with_mask') for step in steps) and any(
                    'LoadAnnotations' in str(step.get('type'))
                    for step in steps):
                yield Answer(part, 'mask head', 'the model has a mask head, '
                             'but LoadAnnotations of the pipeline does not '
                             'load masks: with_mask=True')
    for metric in evaluators(cfg, part):
        wanted = metric.get('metric') or ()
        wanted = [wanted] if isinstance(wanted, str) else wanted
        if 'segm' in wanted and not head and cfg.get('model') and \
                'CocoMetric' in str(metric.get('type')):
            yield Answer(part, 'mask head', f'{part}_evaluator scores masks '
                         "(metric 'segm'), and the model has no mask head")


def _channels(cfg: Config, part: str) -> Iterator[Answer]:
    """Channels that the pipeline loads, and those that the model reads."""
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    wanted = backbone.get('in_channels', 3)
    preprocessor = cfg.model.get('data_preprocessor') if cfg.get('model') \
        else None
    preprocessor = preprocessor or cfg.get('data_preprocessor') or {}
    means = len(preprocessor.get('mean') or ())
    if means > 1 and means != wanted:
        yield Answer(part, 'channels', f'model.backbone reads {wanted} '
                     'channels (in_channels), data_preprocessor has a mean '
                     f'for {means}')
    if wanted != 3 and cfg.get('default_scope') == 'mmdet' and (
            preprocessor.get('bgr_to_rgb')
            or preprocessor.get('rgb_to_bgr')):
        yield Answer(part, 'channels', 'data_preprocessor swaps three '
                     f'channels, model.backbone reads {wanted}: '
                     'bgr_to_rgb=False')
    for steps in pipelines(cfg, part):
        names = ' '.join(str(step.get('type')) for step in steps).lower()
        if any(word in names for word in ('gray', 'channel', 'concat')):
            continue  # a step that changes their number
        for step in steps:
            if str(step.get('type')).split('.')[-1] != 'LoadImageFromFile':
                continue
            gray = str(step.get('color_type', 'color')).startswith('gray')
            loaded = 1 if gray else 3
            if 'unchanged' not in str(step.get('color_type')) and \
                    wanted != loaded and wanted in (1, 3):
                yield Answer(
                    part, 'channels', f'model.backbone reads {wanted} '
                    f'channels (in_channels), LoadImageFromFile gives '
                    f'{loaded}: color_type='
                    f'{"color" if wanted == 3 else "grayscale"!r}')


def _scores(cfg: Config, part: str,
            counts: list[ClassCount]) -> Iterator[Answer]:
    """Find, before the first epoch, what a metric cannot compute."""
    number = max((count.number for count in counts), default=None)
    ignored = ignored_label(cfg, 'train')
    if part == 'train' and cfg.get('default_scope') == 'mmseg' and number:
        for name, padded in _paddings(cfg):
            if padded != ignored and padded >= number:
                yield Answer(part, 'ignored label', f'{name} fills label maps '
                             f'with {padded}, which is no class and is not '
                             f'ignored (ignore_index={ignored}): where it '
                             'fills any, the loss fails')
    for metric in evaluators(cfg, part):
        topk = metric.get('topk') or ()
        topk = (topk, ) if isinstance(topk, int) else topk
        if number and topk and max(topk) > number:
            yield Answer(part, 'score', f'{part}_evaluator asks for the '
                         f'{max(topk)} best of {number} classes: '
                         f'topk={tuple(k for k in topk if k <= number)}')
        if 'IoUMetric' in str(metric.get('type')) and ignored is not None \
                and metric.get('ignore_index', 255) != ignored:
            yield Answer(part, 'ignored label', f'{part}_evaluator ignores '
                         f'label {metric.get("ignore_index", 255)}, the '
                         f'decode_head {ignored}: give both the same '
                         'ignore_index')


def _paddings(cfg: Config) -> Iterator[tuple[str, int]]:
    """Values that label maps are filled up with, and by whom."""
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if 'seg_pad_val' in preprocessor:
        yield 'model.data_preprocessor.seg_pad_val', preprocessor.seg_pad_val
    for steps in pipelines(cfg, 'train'):
        for step in steps:
            padded = step.get('seg_pad_val', (step.get('pad_val') or {}).get(
                'seg') if isinstance(step.get('pad_val'), dict) else None)
            if isinstance(padded, int):
                yield f'{step["type"]} of the pipeline', padded


def ignored_label(cfg: Config, part: str) -> int | None:
    """Return the value of a label map that is no class.

    Args:
        cfg (Config): Of any framework.
        part (str): In training it is the head's, else the metric's.
    """
    if part != 'train':
        for metric in evaluators(cfg, part):
            if 'ignore_index' in metric:
                return metric.ignore_index
    head = (cfg.get('model') or {}).get('decode_head') or {}
    if isinstance(head, (list, tuple)):
        head = head[-1]
    return head.get('ignore_index', 255)
