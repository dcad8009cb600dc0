"""Look at all of a data set before a training does.

    for report in check_config(Config.fromfile('my_config.py')):
        print_report(report, Console())

The data sets are those that a training would build. They read their
annotations, filter them and run their pipelines, and what becomes of each
image and each box is noted.
"""

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from ..utils.frameworks import check_framework
from ..utils.text import describe, read_json
from .classes import (
    build_unread,
    can_be_looked_at,
    forget_read,
    keep_read,
)
from .files import files_in, ignore_hidden_files
from .layout import find_parts
from .listen import Listener, listen
from .own_data import SCOPES, compose_dataset, find_classes, has_masks
from .questions import (
    CHECK,
    PARTS,
    evaluators,
    has_truth,
    ignored_label,
    questions,
)
from .report import ERROR, FAULTS, STOPPING, TRUTH, Report
from .samples import Samples, count_labels, go_through, note_boxes
from .sources import check_data, leaf_datasets

SHOWN = 10  # faults that a message names


def check_path(kind: str, root: str | Path,
               classes: tuple[str, ...] | None = None,
               ignore_zero: bool = False,
               progress: bool = True) -> list[Report]:
    """Check a data set in one of the usual layouts, see ``layout``.

    Args:
        kind (str): 'folder', 'coco', 'pairs' or 'voc'.
        root (str | Path): Its folder.
        classes (tuple[str], optional): Names in the order of their labels.
            Default: those of ``classes.txt``, or those found.
        ignore_zero (bool): Pairs: label 0 is no class. Default: False.
        progress (bool): Show progress, if on a terminal. Default: True.

    Raises:
        FileNotFoundError: If there is no such layout.
        ImportError: If the framework that reads it is not there.
    """
    ignore_hidden_files()
    parts = find_parts(kind, root, classes, ignore_zero)
    classes = parts[0].classes
    if classes is None and kind in ('coco', 'voc'):
        classes = find_classes(kind, *parts)
    cfg = Config(dict(default_scope=SCOPES[kind]))
    for part in parts:
        masks = kind == 'coco' and has_masks(part.annotations, some=True)
        dataset = compose_dataset(kind, Path(root), part, masks)
        if classes is not None:
            dataset['metainfo'] = dict(classes=tuple(classes))
        cfg[f'{part.name}_dataloader'] = dict(dataset=dataset)
    return check_config(cfg, ('train', 'val'), progress)


def check_config(cfg: Config, parts: Iterable[str] = PARTS,
                 progress: bool = True) -> list[Report]:
    """Check every data set that a config's loaders name, each once.

    Args:
        cfg (Config): Of any of the three frameworks.
        parts (Iterable[str]): Loaders to look at. Default: all three.
        progress (bool): Show progress, if on a terminal. Default: True.

    Raises:
        FileNotFoundError: If a data set is not there.
        ImportError: If the framework is not there.
    """
    check_data(cfg, tuple(parts))
    answers = list(questions(cfg, parts))
    reports, of_part = [], {}
    for part, report in look(cfg, parts, True, progress):
        of_part.setdefault(part, report)
        if report not in reports:
            reports.append(report)
    for part, fault, text in answers:
        report = of_part.get(part)
        if report is None:
            of_part[part] = report = Report(f'{part or "the config"}')
            reports.append(report)
        if text not in report.findings.get(fault, ()):
            report.add(fault, text)
    return reports


def refuse_faults(cfg: Config, parts: Iterable[str],
                  keep: bool = False) -> None:
    """Refuse data with which a training or a test would be for nothing.

    Annotations are read, some label maps too, images only looked at: missing,
    empty and cut off ones are found in seconds; tools/prepare_data.py check
    decodes all of them. Of several processes the first one looks.

    Args:
        cfg (Config): Of any of the three frameworks.
        parts (Iterable[str]): 'train', 'val', 'test'.
        keep (bool): The training data that were read are those of the
            training that follows in this process. Defaults to False.

    Raises:
        ValueError: Names the files and faults.
    """
    forget_read()
    if not is_main_process():
        return
    faults = {'training': [], 'evaluation': []}
    seen: list[Report] = []
    for part, report in look(cfg, parts, False, False, keep):
        if report in seen:
            continue
        seen.append(report)
        kind = 'training' if part == 'train' else 'evaluation'
        faults[kind] += report.stops
        others = []
        for fault, found in report.findings.items():
            texts = [text for text in (f'{fault}: {where}' for where in found)
                     if text not in report.stops]
            if 'no samples' in report.findings or \
                    FAULTS[fault][0] == ERROR and (
                        kind == 'evaluation' or fault in STOPPING):
                faults[kind] += texts
            elif texts:
                others.append(f'{fault}: {found[0]}' if len(found) == 1 else
                              f'{fault}: {len(found)}, first {found[0]}')
        if others:
            print_log(f'{report.name}: {"; ".join(others)}. All of it: '
                      f'{CHECK}', 'current', level=30)
    words = dict(
        training=', with which it cannot start or learns something else',
        evaluation='; without these samples the score would be another one')
    text = [f'{len(found)} faults in the {kind} data{words[kind]}:\n  '
            + _first(found) for kind, found in faults.items() if found]
    if text:
        raise ValueError(
            '\n'.join(text) + '\n  mend them, or take them out of the '
            f'annotations; all that can be found: {CHECK}')


def _first(faults: list[str]) -> str:
    shown = '\n  '.join(faults[:SHOWN])
    if len(faults) > SHOWN:
        shown += f'\n  and {len(faults) - SHOWN} more'
    return shown


def look(cfg: Config, parts: Iterable[str], full: bool, progress: bool,
         keep: bool = False) -> Iterator[tuple[str, Report]]:
    """Read every data set of some parts; one that is read again, once.

    Args:
        cfg (Config): Of any of the three frameworks.
        parts (Iterable[str]): 'train', 'val', 'test'.
        full (bool): Run the pipelines on all samples; else look at the files
            of evaluations, at the masks of training and at some label maps.
        progress (bool): Show progress, if on a terminal.
        keep (bool): See :func:`refuse_faults`. Defaults to False.
    """
    check_framework(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    ignore_hidden_files()
    seen: list[tuple[dict, Report]] = []
    for part in parts:
        loader = cfg.get(f'{part}_dataloader') or {}
        for dataset in leaf_datasets(loader.get('dataset')):
            if not can_be_looked_at(dataset):
                print_log(f'{part}: {dataset.get("type")} is a data set of '
                          'its own kind, which is not checked', 'current')
                continue
            key = {k: v for k, v in dataset.items() if k not in (
                'pipeline', 'test_mode', 'filter_cfg')}
            report = next((r for k, r in seen if k == key), None)
            if report is None:
                report = _look_at(cfg, part, dataset, full, progress,
                                  keep and part == 'train')
                seen.append((key, report))
            yield part, report


def _look_at(cfg: Config, part: str, dataset: dict, full: bool,
             progress: bool, keep: bool) -> Report:
    title = f'{part}: {dataset["type"]} {dataset.get("data_root") or ""}'
    report = Report(title.strip())
    truth = has_truth(cfg, part)
    listener = _read(dataset, report, truth)
    if listener is None:
        return report
    made = listener.dataset
    classes = made.metainfo.get('classes')
    report.images = len(listener.listed)
    report.classes.update(dict.fromkeys(classes or (), 0))
    kept = {id(info) for info in made.data_list}
    for info in listener.listed:
        note_boxes(info, report)
        if id(info) in kept:
            count_labels(info, classes or (), report)
    if full and made._indices is None:
        made.data_list = listener.listed  # those that the filter left out too
    ignored, pipeline = ignored_label(cfg, part), made.pipeline
    samples = Samples(made, full, full or part != 'train', ignored)
    label_maps, holes = 0, 0
    for found in go_through(samples, report.name, progress):
        for fault, where, detail in found.faults:
            report.add(fault, where, detail)
        label_maps += found.label_map
        holes += found.ignored
        report.annotations -= len(found.lost)
        report.classes.subtract(classes[label] for label in found.lost)
        for label in found.labels:
            report.classes[classes[label] if classes else str(label)] += 1
    report.annotations += label_maps
    hint = ''
    if holes:
        zero = '0 and ' if getattr(made, 'reduce_zero_label', False) else ''
        hint = f'; {zero}{ignored}, which is ignored, is in {holes} of ' \
            f'{label_maps} label maps: was it meant as a class?'
    never = sum(not count for count in report.classes.values())
    # A rare class may be in none of a few label maps.
    whole = samples.stride == 1
    if whole or 2 * never >= len(report.classes):
        report.add_counts(hint, whole)
    _look_at_folders(made, report)
    _compare_with_evaluation(cfg, part, made, listener, report)
    if not truth:
        for fault in TRUTH:
            report.findings.pop(fault, None)
    if keep and made.data_list:  # mmengine cannot pack nothing
        listener.leave()
        made.pipeline = pipeline
        made.serialize_data = dataset.get('serialize_data', True)
        if made.serialize_data:
            made.data_bytes, made.data_address = made._serialize_data()
        keep_read(dataset, made)
    return report


def _read(dataset: dict, report: Report, truth: bool) -> Listener | None:
    """Have a data set read its annotations; None if it cannot."""
    listener = None
    try:
        made = build_unread(dataset)
        made.serialize_data = False
        listener = listen(made, report, truth)
        with redirect_stdout(io.StringIO()):  # pycocotools talks
            made.full_init()
    except ImportError:
        raise
    except Exception as error:  # what a data set raises
        if listener is not None:
            listener.explain(error)
        else:
            report.add('unreadable annotation', report.name, describe(error))
            report.stops.append(f'unreadable annotation: {describe(error)}')
        return None
    return listener


def _look_at_folders(made: object, report: Report) -> None:
    """Note files that a data set, which lists folders, passes over."""
    suffix = getattr(made, 'img_suffix', None)
    if suffix is None:
        if not made.ann_file and getattr(made, 'extensions', None):
            for path in files_in(made.img_prefix):
                if not made.is_valid_file(path.name):
                    report.add('file of another kind', path)
        return
    if made.ann_file:
        return
    images = Path(made.data_prefix['img_path'])
    for path in files_in(images):
        if not path.name.endswith(suffix):
            report.add('file of another kind', path, f'not {suffix}')
    labels = made.data_prefix.get('seg_map_path')
    if labels and os.path.isdir(labels):
        for path in files_in(labels):
            stem = str(path.relative_to(labels))
            if stem.endswith(made.seg_map_suffix) and not Path(
                    images, stem.removesuffix(made.seg_map_suffix)
                    + suffix).exists():
                report.add('label map without image', path)


def _compare_with_evaluation(cfg: Config, part: str, made: object,
                             listener: Listener, report: Report) -> None:
    """Check that a metric's own annotation file is that of these images.

    MMDetection finds out after the epoch.
    """
    if part == 'train':
        return
    for metric in evaluators(cfg, part):
        path = metric.get('ann_file')
        if not path or not str(path).endswith('.json') or \
                os.path.realpath(path) == os.path.realpath(made.ann_file):
            continue
        try:
            known = {image['id'] for image in read_json(path)['images']}
        except (OSError, ValueError, KeyError, TypeError) as error:
            report.add('wrong evaluation file', path, describe(error))
            continue
        strange = [info.get('img_id') for info in listener.listed
                   if info.get('img_id') not in known]
        if strange:
            report.add(
                'wrong evaluation file', path, f'{part}_evaluator.ann_file '
                f'lacks {len(strange)} of the {len(listener.listed)} images '
                f'of {made.ann_file}, e.g. image {strange[0]}')


