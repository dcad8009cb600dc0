"""Find the shipped weights of a config by its name.

The metafiles beside the configs list them, with file, bytes, hash and scores.
``make zoo`` trains them again and updates the metafiles.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from .configs import get_config_path
from .text import read_text

SCHEME = 'mmqsdt://'  # in front of a name, wherever a checkpoint is named
FOLDER = Path(__file__).resolve().parents[1] / 'weights'


@dataclass(frozen=True)
class ShippedWeights:
    """Packed weights that come with the package.

    Attributes:
        name (str): Of their config, such as 'det/qsdt_maskrcnn_digits'.
        path (Path): The file.
        size (int): Its bytes.
        sha256 (str): Its hash.
        scores (dict[str, float]): On the whole held-out set.
    """
    name: str
    path: Path
    size: int
    sha256: str
    scores: dict[str, float]


@cache
def shipped_names() -> dict[str, ShippedWeights]:
    """Read the shipped weights that the metafiles list, by name."""
    root, found = Path(get_config_path()), {}
    for metafile in sorted(root.glob('*/metafile.yml')):
        for model in yaml.safe_load(read_text(metafile))['Models']:
            if 'Weights' not in model:
                continue
            name = model['Weights'].removeprefix(SCHEME)
            scores: dict[str, float] = {}
            for result in model.get('Results', ()):
                scores.update(result['Metrics'])
            found[name] = ShippedWeights(
                name, FOLDER / f'{name}.safetensors',
                model['Metadata']['File Size (bytes)'],
                model['Metadata']['SHA256'], scores)
    return found


def shipped_weights(name: str) -> ShippedWeights:
    """Find the weights of a shipped config.

    Args:
        name (str): Of the config: 'det/qsdt_maskrcnn_digits',
            'qsdt_maskrcnn_digits', or its path.

    Raises:
        FileNotFoundError: If there are none for this config, or the file is
            missing; lists the configs that have some.
        ValueError: If the file is not the one that the metafile describes.
    """
    known = shipped_names()
    wanted = str(name).removeprefix(SCHEME).removesuffix('.py')
    stem = '/'.join(Path(wanted).parts[-2:])
    found = next((w for n, w in known.items()
                  if stem == n or wanted == n.split('/')[1]), None)
    if found is None:
        raise FileNotFoundError(
            f'no weights ship for {name}; name a checkpoint. There are '
            f'weights for {", ".join(known) or "nothing"}')
    if not found.path.is_file():
        raise FileNotFoundError(f'{found.path} is missing, the installation '
                                'is not whole; install mmqsdt again')
    content = found.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != found.sha256:
        raise ValueError(
            f'{found.path} is not the file that {found.name} was published '
            f'with: {len(content):,} bytes, expected {found.size:,} of '
            'another SHA256; install mmqsdt again')
    return found


def resolve_weights(path: str | Path) -> str:
    """Turn ``mmqsdt://NAME`` into a file's path; keep any other path."""
    path = str(path)
    if path.startswith(SCHEME):
        return str(shipped_weights(path).path)
    return path
