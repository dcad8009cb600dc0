"""Files of data sets: which of them count."""

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
    """List a folder's folders that are data, sorted as in MMPretrain."""
    return sorted(entry.name for entry in os.scandir(folder)
                  if entry.is_dir() and is_data(entry.name))


def files_in(folder: str | Path) -> list[Path]:
    """List the files of a folder tree that are data, sorted."""
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
