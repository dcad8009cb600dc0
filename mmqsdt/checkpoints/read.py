"""Read checkpoints safely, and say what is wrong with a file."""

import argparse
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO

import torch
from mmengine.fileio import get_local_path
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..layers.lsq import BITS, Bits

STATE_DICTS = ('state_dict', 'model')  # keys, ours and the authors'


# What was read while reading_once holds: of one file, to spare memory.
_kept: dict[tuple, object] | None = None


@contextmanager
def reading_once() -> Iterator[None]:
    """Keep what is read of a checkpoint for whoever asks for it again.

    Many ask what a file says before it is loaded: is it whole, does it fit,
    which bits, which classes. Nobody may change what is kept.
    """
    global _kept
    outer, _kept = _kept, {} if _kept is None else _kept
    try:
        yield
    finally:
        _kept = outer


def read_checkpoint(path: str, map_location: object = 'cpu',
                    sums: bool = False) -> object:
    """Read all of a checkpoint without unpickling code.

    Args:
        path (str): See :func:`load_state_dict`.
        map_location: Where tensors go, as in ``torch.load``.
        sums (bool): Compare the check sums that torch.save writes and
            torch.load ignores. Defaults to False.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, asks to execute code, or would
            take far more memory than it has bytes.
    """
    with get_local_path(str(path)) as local:
        if not Path(local).is_file():
            folder = ': it is a folder' if Path(local).is_dir() else ''
            raise FileNotFoundError(f'no checkpoint at {path}{folder}')
        state = os.stat(local)
        key = (os.path.realpath(local), state.st_mtime_ns, state.st_size,
               str(map_location))
        for known in ((*key, True), (*key, sums)):
            if _kept is not None and known in _kept:
                return _kept[known]
        try:
            content = _read(local, map_location, sums)
        except SizeError as error:
            raise ValueError(f'{path} is no checkpoint as torch.save writes '
                             f'it: {error}') from None
        except (ModuleNotFoundError, torch.OutOfMemoryError):
            raise
        except SumError as error:
            raise ValueError(f'{path} is damaged: {error}') from None
        except Exception as error:
            # A damaged file fails in any way: EOFError, IndexError, ...
            raise ValueError(
                f'{path} is not a checkpoint that can be loaded safely: '
                f'{_why(local, error)}') from error
        if _kept is not None:
            _kept.clear()
            _kept[(*key, sums)] = content
        return content


def _read(local: str, map_location: object, sums: bool) -> object:
    """Open a file once and read it."""
    if local.endswith('.safetensors'):
        from safetensors.torch import load_file
        return load_file(local)
    with open(local, 'rb') as file:
        _check_unpacked_size(file)
        if sums:
            check_sums(file)
        file.seek(0)
        with torch.serialization.safe_globals(safe_checkpoint_classes()):
            content = torch.load(
                file, map_location=map_location, weights_only=True)
    _check_tensors(content, Path(local).stat().st_size)
    return content


class SizeError(ValueError):
    """A file claims to hold more bytes than it has."""


class SumError(ValueError):
    """A checksum does not match."""


def check_sums(file: str | BinaryIO) -> None:
    """Compare the checksums that torch.save writes: torch.load does not.

    Raises:
        SumError: If one does not match.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as entries:
            broken = entries.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError,
            NotImplementedError, RuntimeError) as error:
        broken = str(error)
    if broken:
        raise SumError(f'the checksum of {broken} does not match')


def _check_unpacked_size(file: BinaryIO) -> None:
    """Refuse a small zip file that unpacks to a huge one.

    Raises:
        SizeError: If its entries are larger than the file; torch.save does
            not compress.
    """
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as entries:
        unpacked = sum(entry.file_size for entry in entries.infolist())
        packed = os.fstat(file.fileno()).st_size
        if unpacked > packed:
            raise SizeError(f'its {packed:,} bytes unpack to {unpacked:,}')


def _check_tensors(content: object, size: int) -> None:
    """Refuse tensors that claim more values than the file holds.

    Raises:
        SizeError: If a tensor would take more memory than the file has
            bytes, or is no array of numbers at all.
    """
    nests, seen = [{'it': content}], set()
    while nests:
        nest = nests.pop()
        if id(nest) in seen:
            continue
        seen.add(id(nest))
        for key, value in nest.items() if isinstance(nest, dict) else \
                enumerate(nest):
            if isinstance(value, (dict, list, tuple)):
                nests.append(value)
            if not isinstance(value, Tensor):
                continue
            if value.layout != torch.strided or value.is_meta:
                raise SizeError(f'{key} is no array of numbers')
            claimed = value.numel() * value.element_size()
            if claimed > size:
                raise SizeError(f'{key} claims {claimed:,} bytes, the file '
                                f'has {size:,}')


def _why(local: str, error: Exception) -> str:
    """Say what is wrong with a file, in its user's words."""
    if not Path(local).stat().st_size:
        return 'it is empty'
    asked = re.search(r'GLOBAL (\S+) was not an allowed global', str(error))
    asked = asked or re.search(r'load unsafe global (\S+)', str(error))
    if asked:
        return (f'it holds objects other than tensors and plain data: it '
                f'asks for {asked[1]}, which could execute code')
    if isinstance(error, UnpicklingError) and 'getattr' in str(error):
        return f'it asks to execute code ({error})'
    with suppress(zipfile.BadZipFile):
        if zipfile.is_zipfile(local):
            return 'it is damaged, or holds objects other than tensors'
    with open(local, 'rb') as file:
        start = file.read(4)
    if start[:2] in (b'PK', b'\x80\x02') or local.endswith('.safetensors'):
        return 'it is truncated or damaged; copy it again'
    return f'it is no file of torch.save, or damaged (it starts {start!r})'


def load_state_dict(path: str) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint without unpickling code.

    Args:
        path (str): A .pth of mmengine or of the authors (their
            argparse.Namespace is tolerated), a plain state dict, or a
            .safetensors file; local, or any back end of mmengine's fileio.

    Returns:
        dict[str, Tensor]: The model's state dict, as it is in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds no tensors, or asks to
            execute code.
    """
    return find_state_dict(read_checkpoint(path), path)


def _state_dict_of(content: object, keys: tuple[str, ...]) -> object:
    for key in keys:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return content[key]
    return content


def find_state_dict(content: object, path: str,
                    keys: tuple[str, ...] = STATE_DICTS) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint that was read.

    Args:
        content (object): All of it.
        path (str): Of the file, for the message.
        keys (tuple[str]): Where they may be, if not at the top.

    Raises:
        ValueError: If there are none.
    """
    content = _state_dict_of(content, keys)
    if not isinstance(content, dict):
        content = {}
    tensors = {k: v for k, v in content.items()
               if isinstance(v, Tensor) and isinstance(k, str)}
    if not tensors:
        raise ValueError(f'{path} holds no state dict')
    return tensors


def saved_meta(content: object) -> dict:
    """Return the 'meta' of a checkpoint that was read; {} if it has none."""
    meta = content.get('meta') if isinstance(content, dict) else None
    return meta if isinstance(meta, dict) else {}


def saved_widths(content: object) -> dict[str, Bits]:
    """Return the layers of a checkpoint that note the bits of their weights.

    Args:
        content (object): All that was read from it.
    """
    content = _state_dict_of(content, STATE_DICTS)
    notes = getattr(content, '_metadata', None)
    notes = notes if isinstance(notes, dict) else {}
    return {name: note['bits'] for name, note in notes.items()
            if isinstance(note, dict) and type(note.get('bits')) in (int, str)
            and note['bits'] in BITS}


def safe_checkpoint_classes() -> list:
    """List the classes of plain data that checkpoints hold beside tensors."""
    import numpy as np
    reconstruct = np.array(0).__reduce__()[0]
    dtypes = [type(np.dtype(t)) for t in (float, 'f4', int, 'i4', bool, 'u1')]
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace, HistoryBuffer, reconstruct, scalar, np.ndarray,
        np.dtype, *dtypes, (_history_statistic, 'builtins.getattr')
    ]


def _history_statistic(cls: type, name: str) -> Callable:
    """Give a pickled HistoryBuffer its methods, and nothing else."""
    if cls is not HistoryBuffer or name not in ('min', 'max', 'current',
                                                'mean'):
        raise UnpicklingError(f'getattr of {name!r} is not plain data')
    return getattr(cls, name)


def check_finite(path: str, state_dict: dict[str, Tensor],
                 may_be_infinite: set[str] = frozenset()) -> None:
    """Refuse the weights of a training that diverged.

    Args:
        path (str): Of the file, for the message.
        state_dict (dict[str, Tensor]): What was read from it.
        may_be_infinite (set[str]): Keys that may hold infinite values, such
            as attention masks, but no NaN.

    Raises:
        ValueError: If there is such a value; names the first.
    """
    for key, value in state_dict.items():
        if not value.is_floating_point():
            continue
        wrong = torch.isnan(value)
        if key not in may_be_infinite:
            wrong |= torch.isinf(value)
        if wrong.any():
            raise ValueError(
                f'{path}: {int(wrong.sum())} of {value.numel()} values of '
                f'{key} are not finite: the training had diverged before '
                'this was saved; take an earlier checkpoint')
