"""Check that necks and heads expect the maps that their backbone returns.

This reads the config alone, before anything is built: it finds the fields
that depend on the backbone's maps, and the values they should have.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..utils.configs import plain
from .backbones.qsd_transformer import resolve_arch

# Parts of a model that may read the backbone, if no neck does.
HEADS = ('decode_head', 'auxiliary_head', 'panoptic_head', 'head')


class Maps(NamedTuple):
    """The maps of a backbone, the finest first.

    Attributes:
        channels (tuple[int]): Of each.
        strides (tuple[int]): Of each, in pixels of the image.
    """
    channels: tuple[int, ...]
    strides: tuple[int, ...]


class Field(NamedTuple):
    """An entry of a model's config that depends on the backbone's maps.

    Attributes:
        path (tuple): Keys and indices that lead to it.
        value (object): What the config says.
        expected (object): What belongs there.
    """
    path: tuple[str | int, ...]
    value: object
    expected: object

    @property
    def name(self) -> str:
        """Return the path as a user writes it."""
        return '.'.join(map(str, self.path))


def maps_of(backbone: dict) -> Maps | None:
    """Return the maps of a QSDTransformer's config; None for any other."""
    if str(backbone.get('type', '')).split('.')[-1] != 'QSDTransformer':
        return None
    c0, c1, c2, c3 = resolve_arch(backbone.get('arch', '15m'))['embed_dims']
    channels = (c0 // 2, c0, c1, c2, c3)
    strides = (2, 4, 8, 16, 16 * backbone.get('stage4_stride', 1))
    taps = backbone.get('out_indices', (4, ))
    taps = (taps, ) if isinstance(taps, int) else taps
    if not set(taps) <= set(range(5)):
        return None  # the backbone itself raises the error
    return Maps(tuple(channels[i] for i in taps),
                tuple(strides[i] for i in taps))


def readers(model: dict) -> Iterator[tuple[tuple[str | int, ...], dict]]:
    """Find the parts of a model that read the backbone's maps.

    That is the neck (the first one of several) if it has in_channels, else
    the heads.
    """
    neck = model.get('neck')
    first = neck[0] if isinstance(neck, (list, tuple)) and neck else neck
    if isinstance(first, dict) and 'in_channels' in first:
        yield ('neck', 0) if first is not neck else ('neck', ), first
        return
    for key in HEADS:
        head = model.get(key)
        if isinstance(head, dict):
            head, place = [head], lambda i, key=key: (key, )
        else:
            place = lambda i, key=key: (key, i)  # noqa: E731
        for i, part in enumerate(head or ()):
            if isinstance(part, dict) and 'in_channels' in part:
                yield place(i), part


def fields(model: dict, maps: Maps) -> Iterator[Field]:
    """Find all fields that depend on the maps, and their right values.

    Args:
        model (dict): Config of a model.
        maps (Maps): Of its backbone, or of the backbone it will get.

    Raises:
        ValueError: If a part wants more maps than there are.
    """
    for path, part in readers(model):
        value, index = part['in_channels'], part.get('in_index')
        if isinstance(value, (list, tuple)):
            if index is None:
                index = range(len(maps.channels))
            expected = [_at(path, maps.channels, i) for i in index]
        elif part.get('input_transform') == 'resize_concat':
            expected = sum(_at(path, maps.channels, i) for i in index)
        else:
            index = -1 if index is None else index
            expected = _at(path, maps.channels, index)
        yield Field((*path, 'in_channels'), value, expected)
        if part.get('c1_in_channels'):  # DeepLabV3+ reads the finest, too
            yield Field((*path, 'c1_in_channels'), part['c1_in_channels'],
                        maps.channels[0])
        for key in ('strides', 'feature_strides'):
            if key == 'strides' and 'pixel_decoder' not in part:
                continue
            if isinstance(part.get(key), (list, tuple)) and \
                    path[0] != 'neck':
                yield Field((*path, key), part[key],
                            [_at(path, maps.strides, i) for i in index])


def _at(path: Sequence, values: Sequence[int], index: int) -> int:
    try:
        return values[index]
    except IndexError:
        raise ValueError(
            f'model.{".".join(map(str, path))} reads map {index}, the '
            f'backbone has {len(values)}: set its out_indices or the '
            'in_index of that part') from None


def check_channels(model: dict) -> None:
    """Refuse a model whose parts expect other maps than its backbone returns.

    Only models with a QSDTransformer are checked.

    Args:
        model (dict): Its config.

    Raises:
        ValueError: Names each wrong entry, and its right value.
    """
    backbone = model.get('backbone')
    maps = maps_of(backbone) if isinstance(backbone, dict) else None
    if maps is None:
        return
    wrong = [field for field in fields(model, maps)
             if plain(field.value) != plain(field.expected)]
    if wrong:
        raise ValueError(
            'the backbone gives maps of '
            f'{", ".join(map(str, maps.channels))} channels with strides '
            f'{", ".join(map(str, maps.strides))}, and the model expects '
            'others:' + ''.join(
                f'\n  model.{f.name} = {plain(f.value)}, expected '
                f'{plain(f.expected)}' for f in wrong))
