"""The shipped configs: found by name, listed with what they are."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from inspect import signature
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from ..data.sources import DATA_SOURCES, dataset_paths
from ..layers import IELIF
from ..layers.ie_lif import DEFAULT_NEURON
from ..models import QSDTransformer
from ..utils.configs import config_names, get_config_path
from ..utils.frameworks import FRAMEWORKS


@dataclass(frozen=True)
class ZooEntry:
    """What a config says of itself.

    Attributes:
        name (str): Such as 'det/qsdt_maskrcnn_coco'.
        task (str): Classification, detection or segmentation.
        network (str): Type of the whole model.
        size (str): Arch of the backbone.
        bits (str): Of the backbone's weights; 'float'.
        spikes (str): 'T x D', time steps x levels; 'ReLU' where none spike.
        data (str): Data set.
        data_here (bool): Whether its training data are where they are
            looked for.
    """
    name: str
    task: str
    network: str
    size: str
    bits: str
    spikes: str
    data: str
    data_here: bool


def list_zoo(pattern: str = '') -> list[ZooEntry]:
    """Shipped configs, described.

    Args:
        pattern (str): See :func:`select`. Defaults to '', all of them.

    Raises:
        ValueError: If nothing matches; suggests the nearest.
    """
    return select([describe_config(name) for name in config_names()], pattern)


def select(entries: list[ZooEntry], pattern: str) -> list[ZooEntry]:
    """Return the entries that match.

    Args:
        entries (list[ZooEntry]): All there are.
        pattern (str): Part of a name or a wildcard pattern; of several
            words each must match, in name, task, data, network or size.

    Raises:
        ValueError: If nothing matches; suggests the nearest.
    """
    found = [e for e in entries if all(matches(e, w)
                                       for w in pattern.lower().split())]
    if not found:
        raise ValueError(f'no config matches {pattern!r}'
                         + suggestion(entries, pattern.lower().split()))
    return found


def suggestion(entries: list[ZooEntry], words: list[str]) -> str:
    """Suggest what was meant by words that match nothing."""
    known = {part for e in entries for text in words_of(e)
             for part in (text, *re.split(r'[\s/_-]+', text)) if part}
    unknown = [w for w in words if not any(matches(e, w) for e in entries)]
    if not unknown:
        return ', though each of its words does'
    near = [' or '.join(found) for word in unknown
            if (found := get_close_matches(word, known, n=3, cutoff=0.5))]
    return f'; did you mean {", ".join(near)}?' if near else ''


def words_of(entry: ZooEntry) -> list[str]:
    """Return the lower-case text that a pattern is compared with."""
    return [text.lower() for text in (
        entry.name, entry.name.split('/')[1], entry.task, entry.data,
        entry.network, entry.size)]


def matches(entry: ZooEntry, word: str) -> bool:
    """Whether a word is part of an entry, or a pattern of it."""
    return any(word in text or fnmatch(text, word) for text in words_of(entry))


def describe_config(name: str) -> ZooEntry:
    """Read one shipped config.

    Args:
        name (str): See :func:`config_names`.
    """
    cfg = Config.fromfile(get_config_path(f'{name}.py'))
    size, bits, spikes = describe_backbone(cfg.model.backbone)
    dataset = cfg.train_dataloader.dataset
    return ZooEntry(
        name=name,
        task=FRAMEWORKS[cfg.default_scope][1],
        network=cfg.model.type,
        size=size,
        bits=bits,
        spikes=spikes,
        data=describe_data(dataset),
        data_here=all(path.exists() for path in dataset_paths(dataset)))


def describe_backbone(backbone: dict) -> tuple[str, str, str]:
    """Size, bits and T x D of a backbone's config, defaults filled in."""
    if not backbone['type'].endswith('QSDTransformer'):
        size = f'{backbone["type"]}-{backbone.get("depth", "")}'.rstrip('-')
        return size, 'float', 'ReLU'
    defaults = {k: p.default for k, p in
                signature(QSDTransformer).parameters.items()}
    settings = {**defaults, **backbone}
    bits, neuron = settings['weight_bits'], settings['neuron']
    kind = (neuron or {}).get('type', DEFAULT_NEURON).split('.')[-1]
    spikes = kind
    if kind in ('IELIF', 'LIF'):
        levels = 1 if kind == 'LIF' else (neuron or {}).get(
            'levels', signature(IELIF).parameters['levels'].default)
        spikes = f'{settings["time_steps"]} x {levels}'
    arch = settings['arch']
    return (arch if isinstance(arch, str) else 'custom',
            'float' if bits is None else str(bits), spikes)


def describe_data(dataset: dict) -> str:
    """Name of a data set's config."""
    root = Path(dataset.get('data_root') or '')
    for part, (name, _) in DATA_SOURCES.items():
        if part in root.parts:
            return name
    return dataset['type']


def print_zoo(entries: list[ZooEntry], console: Console | None = None) -> None:
    """Print the entries as a table."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    for column in ('config', 'task', 'network', 'size', 'bits', 'T x D',
                   'data', 'here'):
        table.add_column(column, no_wrap=True)
    for e in entries:
        table.add_row(e.name, e.task, e.network, e.size, e.bits, e.spikes,
                      e.data, 'yes' if e.data_here else '')
    # Not cut to a narrow window: the names are there to be copied.
    (console or Console(width=140)).print(table)
