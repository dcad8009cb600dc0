"""What can be told of an image file without decoding it."""

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .files import IMAGE_SUFFIXES

ORIENTATION = 0x0112  # EXIF tag; 5 to 8 turn the image by 90 degrees
# How a file starts -> what is at its end, and cannot be within its data.
ENDS = {b'\xff\xd8': b'\xff\xd9', b'\x89P': b'IEND\xaeB`\x82'}
TAIL = 1024  # bytes in which the end is looked for


@dataclass(frozen=True)
class Picture:
    """An image file as it was found.

    Attributes:
        path (Path): The file.
        fault (str): Of ``report.FAULTS``, why it cannot be read; or ''.
        detail (str): What is known of it.
        size (tuple[int, int]): Width and height in pixels, as shown: turned
            as its EXIF data say, which mmcv does too. (0, 0): not known.
        mode (str): Pillow's name of its channels.
    """
    path: Path
    fault: str = ''
    detail: str = ''
    size: tuple[int, int] = (0, 0)
    mode: str = ''


def look_at(path: str | Path, decode: bool = False) -> Picture:
    """See whether an image file is there and whole, and read its header.

    Where the end of a JPEG or PNG is missing, it is decoded to find out:
    some cameras append other data.

    Args:
        path (str | Path): An image.
        decode (bool): Decode files of other formats, which have no mark of
            their end. Defaults to False.
    """
    path = Path(path)
    try:
        length = os.path.getsize(path)
        with open(path, 'rb') as file:
            start = file.read(2)
            file.seek(max(0, length - TAIL))
            whole = start in ENDS and ENDS[start] in file.read()
    except FileNotFoundError:
        return Picture(path, 'missing image', near(path))
    except OSError as error:
        return Picture(path, 'broken image', error.strerror or str(error))
    if not length:
        return Picture(path, 'empty file')
    try:
        with Image.open(path) as image:
            size, mode = image.size, image.mode
            turned = image.format in ('JPEG', 'MPO') and \
                image.getexif().get(ORIENTATION, 1) >= 5
            if not whole and (decode or start in ENDS):
                image.load()
    except Exception as error:  # decoders raise what they please
        if start in ENDS or 'truncated' in str(error):
            return Picture(path, 'truncated image', str(error)[:200])
        return Picture(path)  # whoever loads it may know the format
    return Picture(path, size=size[::-1] if turned else size, mode=mode)


def near(path: Path) -> str:
    """Where a file that is missing may be."""
    if '\ufeff' in path.name:
        return 'the name starts with the byte order mark of the list; save ' \
            'the list as UTF-8 without one'
    for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):
        if suffix != path.suffix and path.with_suffix(suffix).is_file():
            return f'there is {path.stem}{suffix}, and its loader asks for ' \
                f'{path.suffix}'
    if '\\' in path.name and path.with_name(
            path.name.replace('\\', '/')).is_file():
        return 'its folders are separated by \\; write /'
    doubled = path.parent.parent / path.name
    if path.parent.name == path.parent.parent.name and doubled.is_file():
        return f'there is {doubled}: the folder is in the annotation and in ' \
            'data_prefix'
    return ''
