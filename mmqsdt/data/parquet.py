"""Reading parquet files of the hub, and writing so that nothing is half done.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ..utils.text import read_json

try:
    from datasets import load_dataset
    from pyarrow.parquet import ParquetFile
except ImportError as error:
    raise ImportError(
        f'converting parquet files needs the datasets library ({error}); '
        'install it: pip install "mmqsdt[data]"') from error

STATE = '.converted.json'  # in the folder written to
SPLITS = dict(train='train', training='train', val='val', validation='val',
              test='test')


class State:
    """What has been converted, kept in a file of the target folder.

    Args:
        folder (Path): The target; made if it is not there.
        name (str): What is converted into it.

    Raises:
        ValueError: If something else was converted into the folder.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / STATE
        self.content = dict(name=name, done={}, folders={})
        if self.path.exists():
            found = read_json(self.path)
            if found['name'] != name:
                raise ValueError(f'{folder} holds {found["name"]}; name '
                                 'another folder')
            self.content = found

    def is_done(self, shard: Path) -> bool:
        """Whether this file, of this size, was converted to its end."""
        return self.content['done'].get(shard.name, {}).get(
            'bytes') == shard.stat().st_size

    def finish(self, shard: Path, **counts: int) -> None:
        """Note a file as converted."""
        self.content['done'][shard.name] = dict(
            bytes=shard.stat().st_size, **counts)
        write_whole(self.path, json.dumps(self.content, indent=1).encode())

    def total(self, count: str) -> int:
        """Sum of a count over all files that were converted."""
        return sum(each.get(count, 0) for each in
                   self.content['done'].values())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    part.write_bytes(content)
    os.replace(part, path)


def find_shards(source: str | Path) -> list[tuple[Path, str]]:
    """Map the parquet files of a folder to their splits.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a name says of no split, or two files have one name.
    """
    found = []
    for path in sorted(Path(source).rglob('*.parquet')):
        words = [re.split(r'[-_.]', path.stem)[0], path.parent.name]
        split = next((SPLITS[w] for w in words if w in SPLITS), None)
        if split is None:
            raise ValueError(f'{path} names no split; expected such as '
                             'train-00000-of-00294.parquet')
        found.append((path, split))
    if not found:
        raise FileNotFoundError(f'no .parquet files in {source}')
    names = [path.name for path, _ in found]
    if len(set(names)) < len(names):
        raise ValueError(f'{source} has parquet files of the same name in '
                         'several folders; name the folder of one data set')
    return found


def read_rows(shard: Path, columns: dict[str, object]) -> Iterator[dict]:
    """Rows of a parquet file, images as they are in it.

    Args:
        shard (Path): The file.
        columns (dict[str, object]): Those wanted; the value is a feature to
            read a column as, or None.

    Raises:
        ValueError: If a column is not there.
    """
    dataset = load_dataset(
        'parquet', data_files=str(shard), split='train', streaming=True)
    lacking = set(columns) - set(dataset.features)
    if lacking:
        raise ValueError(f'{shard} has no column {", ".join(sorted(lacking))}'
                         f'; it has {", ".join(dataset.features)}')
    dataset = dataset.select_columns(list(columns))
    for name, feature in columns.items():
        if feature is not None:
            dataset = dataset.cast_column(name, feature)
    yield from dataset


def class_names(shard: Path, *keys: str) -> list[str] | None:
    """Names of the classes of a column, None if it has no names."""
    found = load_dataset('parquet', data_files=str(shard), split='train',
                         streaming=True).features
    for key in keys:
        found = getattr(found, 'feature', found)
        found = found[key]
    found = getattr(found, 'feature', found)
    return getattr(found, 'names', None)


def image_bytes(image: dict, where: object) -> bytes:
    """Return the bytes of an image column that is not decoded.

    Raises:
        ValueError: If the file only names an image.
    """
    if not image or not image.get('bytes'):
        raise ValueError(f'{where}: the image is not in the parquet file')
    return image['bytes']


def convert_shards(source: str | Path, state: State, columns: dict,
                   convert: Callable[[Path, str, Iterator], dict]) -> None:
    """Convert what is not converted yet, with a progress bar.

    Args:
        source (str | Path): Folder of the parquet files.
        state (State): Of the target.
        columns (dict): See ``read_rows``.
        convert (Callable): Of a file, its split and its rows; returns the
            counts to note.
    """
    shards = find_shards(source)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        rows = {path: ParquetFile(path).metadata.num_rows
                for path, _ in shards}
        task = bar.add_task('rows', total=sum(rows.values()))
        for path, split in shards:
            if state.is_done(path):
                bar.advance(task, rows[path])
                continue

            def advancing(path: Path = path) -> Iterator[dict]:
                for row in read_rows(path, columns):
                    yield row
                    bar.advance(task)

            if split == 'test':  # without labels in all three data sets
                state.finish(path, left_out=rows[path])
                bar.advance(task, rows[path])
            else:
                state.finish(path, **convert(path, split, advancing()))
