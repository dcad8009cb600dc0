"""The classes of a config: those of its model, and those of its data."""

import os
from collections.abc import Iterator
from inspect import signature
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, MODELS, init_default_scope

from .sources import leaf_datasets

# Told apart are objects from none, or more classes than the boxes have.
OTHER_CLASSES = ('rpn_head', 'semantic_head')


class ClassCount(NamedTuple):
    """A part of a model that is made for a number of classes.

    Attributes:
        path (tuple): Keys and indices that lead to it from the model.
        part (dict): It; what is changed in it is changed in the model.
        number (int): Of classes.
        said (bool): False if it is the default of its type.
    """
    path: tuple[str | int, ...]
    part: dict
    number: int
    said: bool


def walk(part: object, path: tuple[str | int, ...] = ()
         ) -> Iterator[tuple[tuple[str | int, ...], dict]]:
    """Every dict of a model that knows its classes, with its path."""
    if isinstance(part, dict):
        yield path, part
        inside = [(key, value) for key, value in part.items()
                  if key not in OTHER_CLASSES]
    elif isinstance(part, (list, tuple)):
        inside = list(enumerate(part))
    else:
        return
    for key, value in inside:
        yield from walk(value, (*path, key))


def class_counts(model: object) -> Iterator[ClassCount]:
    """Find every num_classes of a model's config but the proposals'.

    A head that does not say it has the default of its type: MMDetection's
    have 80.
    """
    for path, part in walk(model):
        number = part.get('num_classes')
        said = isinstance(number, int)
        if not said and 'type' in part and any(
                isinstance(key, str) and key.endswith('head')
                for key in path[-2:]):
            number = default_of(part['type'], 'num_classes')
        if isinstance(number, int) and number > 0:
            yield ClassCount(path, part, number, said)


def default_of(kind: str | type, name: str) -> object:
    """Return an argument's default in a module's type, or None."""
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    for base in getattr(kind, '__mro__', ()):
        made = base.__dict__.get('__init__')
        found = made and signature(made).parameters.get(name)
        if found:
            return None if found.default is found.empty else found.default
    return None


def build_unread(dataset: dict, **changes: object) -> BaseDataset:
    """Build an innermost data set of a config without reading its files.

    Args:
        dataset (dict): Of a loader; no wrapper.
        **changes: Other values of its entries.
    """
    return DATASETS.build(dict(dataset, lazy_init=True, **changes))


# Where, the config, and the data set that was read already.
_read: list[tuple[str, dict, BaseDataset]] = []


def keep_read(dataset: dict, made: BaseDataset) -> None:
    """Keep a data set that was read, for a training to go on with it."""
    _read.append((os.getcwd(), dict(dataset), made))


def take_read(dataset: dict) -> BaseDataset | None:
    """Hand over the data set of a config, if it was kept."""
    for entry in _read:
        if entry[:2] == (os.getcwd(), dict(dataset)):
            _read.remove(entry)
            return entry[2]
    return None


def forget_read() -> None:
    """Keep nothing that an earlier call left."""
    _read.clear()


def can_be_looked_at(dataset: dict) -> bool:
    """Whether a data set is one of OpenMMLab's kind, which can be unread.

    A class of a user's own that is no ``BaseDataset``, or that takes neither
    ``lazy_init`` nor ``pipeline``, is left to the training.
    """
    kind = dataset.get('type')
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(kind, type) and issubclass(kind, BaseDataset)):
        return kind is None  # an unknown name is said where it is built
    known = signature(kind.__init__).parameters
    return {'lazy_init', 'pipeline'} <= set(known) or any(
        p.kind is p.VAR_KEYWORD for p in known.values())


def dataset_meta(cfg: Config, part: str = 'test') -> dict:
    """Meta information of the first innermost data set, as it is built.

    Args:
        cfg (Config): Of any of the three frameworks.
        part (str): 'train', 'val' or 'test'. Defaults to 'test'.

    Returns:
        dict: With a ``palette`` of one color for each of ``classes``.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    dataset = next(leaf_datasets(cfg[f'{part}_dataloader'].dataset))
    return drawn_meta(build_unread(dataset, pipeline=[]).metainfo)


def drawn_meta(metainfo: dict | list[dict]) -> dict:
    """Meta information to draw with: a color for each class.

    Args:
        metainfo (dict | list[dict]): Of a data set, or of several that are
            joined, of which the first is taken.
    """
    if isinstance(metainfo, list):
        metainfo = metainfo[0]
    number = len(metainfo.get('classes') or ())
    palette = metainfo.get('palette')
    if not isinstance(palette, (list, tuple)) or len(palette) < number:
        # The same colors in every run.
        palette = np.random.RandomState(42).randint(
            0, 256, (number, 3)).tolist()
    # Visualizers take a list for one of several colors.
    return dict(metainfo, palette=[tuple(each) for each in palette[:number]])


def check_names(classes: object, own: bool = True) -> list[str]:
    """Say what is wrong with a list of class names.

    Args:
        classes (object): What should be a list or tuple of names.
        own (bool): Whether a user wrote them, so that one name for two
            classes is a mistake. ImageNet has two cranes and two maillots.
            Defaults to True.

    Returns:
        list[str]: A sentence for each fault; empty if there is none.
    """
    if classes is None:
        return []
    if isinstance(classes, str):
        return [f'classes is the text {classes!r}, which would be read letter '
                f'by letter; a tuple of one name has a comma: ({classes!r}, )']
    if not isinstance(classes, (list, tuple)):
        return [f'classes must be a tuple of names, got {classes!r}']
    wrong = []
    for index, name in enumerate(classes):
        if not isinstance(name, str):
            wrong.append(f'class {index} is {name!r}, a '
                         f'{type(name).__name__}; names are text')
        elif not name.strip('\ufeff \t\r\n'):
            wrong.append(f'class {index} has an empty name')
        elif name.startswith('\ufeff'):
            wrong.append(f'class {index}, {name!r}, starts with the byte '
                         'order mark of its file; save the file as UTF-8 '
                         'without one')
        elif own and name in classes[:index]:
            wrong.append(f'class {index} is called {name!r} as class '
                         f'{classes.index(name)} is')
    return wrong
