"""Files of data sets: which of them count, and what is in them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.io import backend_instances

# What systems and archivers leave in folders, besides names with a dot.
NOT_DATA = ('__macosx', 'thumbs.db', 'desktop.ini', '@eadir', '$recycle.bin',
            'system volume information', 'lost+found', 'ehthumbs.db')
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp',
                  '.ppm', '.pgm')


def is_data(name: str) -> bool:
    """Whether a person may have meant a file or folder of this name."""
    return not name.startswith('.') and name.lower() not in NOT_DATA


def folders_in(folder: str | Path) -> list[str]:
    """The folders in a folder that are data, sorted as MMPretrain does."""
    return sorted(entry.name for entry in os.scandir(folder)
                  if entry.is_dir() and is_data(entry.name))


def files_in(folder: str | Path) -> list[Path]:
    """The files in a folder and its folders that are data, sorted."""
    folder = Path(folder)
    return [folder / path for path in sorted(
        DataBackend().list_dir_or_file(folder, list_dir=False,
                                       recursive=True))]


class DataBackend(LocalBackend):
    """mmengine's back end for local files, blind for what is no data.

    Jupyter's ``.ipynb_checkpoints`` would be a class, and its copies of
    images would be samples.
    """

    def list_dir_or_file(self, dir_path: str | Path, *args,
                         **kwargs) -> Iterator[str]:
        """List as the base class, without hidden and system entries."""
        for path in super().list_dir_or_file(dir_path, *args, **kwargs):
            if all(map(is_data, Path(path).parts)):
                yield path


def ignore_hidden_files() -> None:
    """Have the data sets of this process pass over what is no data."""
    register_backend('local', DataBackend, force=True, prefixes='')
    backend_instances.clear()  # made of the class before


def read_text(path: str | Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: If it is in another encoding.
    """
    try:
        return Path(path).read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path} is no UTF-8: byte {error.object[error.start]:#x} at '
            f'{error.start} ({error.reason}); save it as UTF-8') from None


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file that are not empty, without blanks around."""
    return [line.strip() for line in read_text(path).splitlines()
            if line.strip()]


def read_json(path: str | Path) -> object:
    """Read a JSON file.

    Raises:
        ValueError: If it is none; says where, in one line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is no JSON: {error}') from None


def describe(error: BaseException) -> str:
    """Kind and first line of an error."""
    text = str(error).strip().split('\n')[0]
    return f'{type(error).__name__}: {text}'[:300]
