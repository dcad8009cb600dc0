"""Read text files, describe errors in one line, and name parts of models."""

import json
from pathlib import Path
from traceback import extract_tb


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
    """Read the non-empty lines of a text file, stripped."""
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
    """Return the type and the first line of an error."""
    text = str(error).strip().split('\n')[0]
    if not text and error.__traceback__:
        place = extract_tb(error.__traceback__)[-1]
        text = f'no message; raised at {Path(place.filename).name}, line ' \
            f'{place.lineno}: {place.line}'
    return f'{type(error).__name__}: {text}'[:300]


def part_of(path: str) -> str:
    """Path of the stage, neck or head that a module or parameter is in."""
    parts = path.split('.')
    depth = 3 if parts[1:2] == ['stages'] else \
        2 if parts[0] == 'roi_head' else 1
    return '.'.join(parts[:depth])
