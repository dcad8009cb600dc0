"""Write files so that they are complete or not there at all."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

PART = '.part'  # ends the name of a file that is being written


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file; a crash at any moment leaves the old or the new one.

    The data are written to ``<path>.part`` and to the disk, and then renamed
    in one step. A device or a pipe, such as /dev/stdout, is written to as it
    is.

    Args:
        path (str | Path): The file; its folder is made.
        data (bytes): Its whole content.

    Raises:
        OSError: If the disk is full or cannot be written. The file under
            this name, if any, is what it was.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        with open(path, 'wb') as file:
            file.write(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    try:
        with open(part, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8; see :func:`write_atomically`."""
    write_atomically(path, text.encode())


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:  # some network drives do not sync folders
        pass
    finally:
        os.close(handle)


@register_backend('atomic-local')
class AtomicLocalBackend(LocalBackend):
    """mmengine's back end for local files, with atomic writes."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; see :func:`write_atomically`."""
        write_atomically(filepath, obj)

    def put_text(self,
                 obj: str,
                 filepath: str | Path,
                 encoding: str = 'utf-8') -> None:
        """Write text; see :func:`write_atomically`."""
        write_atomically(filepath, obj.encode(encoding))
