"""What a checkpoint was saved with, against what it is to be loaded into."""

import ast
from collections.abc import Iterator

from ..checkpoints.packing import is_packed
from ..checkpoints.read import read_checkpoint
from ..checkpoints.read import saved_meta as meta_of
from ..utils.configs import plain
from .classes import default_of

# What no shape of a weight shows, and changes every output.
ERRORS = ('weight_bits', 'bits')
WARNINGS = ('neuron', 'time_steps', 'levels', 'mean', 'std', 'bgr_to_rgb',
            'rgb_to_bgr')


def compare_with_saved(path: str, model: dict,
                       classes: tuple[str, ...] | None,
                       trained: bool = True) -> Iterator[tuple[str, str]]:
    """Compare what runners write into a checkpoint with a config.

    Args:
        path (str): The checkpoint; packed ones are compared as they are
            loaded, those of other places when they are fetched.
        model (dict): The model's config.
        classes (tuple[str], optional): Of the data.
        trained (bool): It is used as it is, not trained further.

    Yields:
        tuple[str, str]: A fault of ``report.FAULTS``, and what is wrong.
    """
    if '://' in str(path) or is_packed(path):
        return
    meta = saved_meta(path)
    theirs = parse_config(meta.get('cfg')).get('model')
    if isinstance(theirs, dict):
        yield from _differences(path, theirs, model, trained)
    known = saved_classes(meta)
    if not trained or not known or not isinstance(classes, tuple) or \
            known == classes:
        return
    if set(known) == set(classes):
        index = next(i for i in range(len(known)) if known[i] != classes[i])
        yield 'checkpoint', (
            f'{path} was trained on the same classes in another order: class '
            f'{index} was {known[index]!r}, the config says '
            f'{classes[index]!r}')
    elif len(known) == len(classes):
        yield 'other names', (
            f'{path} was trained on classes of other names: '
            f'{", ".join(map(str, known[:5]))}; the config has '
            f'{", ".join(map(str, classes[:5]))}')


def saved_meta(path: str) -> dict:
    """Return a runner's notes in a checkpoint; empty if there are none.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    try:
        content = read_checkpoint(path)
    except ValueError:
        return {}  # whoever loads it says what is wrong, or was told to
    return meta_of(content)


def saved_classes(meta: dict) -> tuple[str, ...] | None:
    """Return the classes that a checkpoint was trained on, if it says."""
    known = meta.get('dataset_meta')
    known = known[0] if isinstance(known, list) and known else known
    known = known.get('classes') if isinstance(known, dict) else None
    return tuple(known) if isinstance(known, (list, tuple)) else None


def parse_config(text: object) -> dict:
    """Read the text of a config without executing any of it.

    Args:
        text (object): As mmengine writes it into checkpoints: assignments of
            literals and ``dict(...)``.

    Returns:
        dict: What could be read.
    """
    try:
        lines = ast.parse(text).body if isinstance(text, str) else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {line.targets[0].id: _value(line.value) for line in lines
            if isinstance(line, ast.Assign)
            and isinstance(line.targets[0], ast.Name)}


def _value(node: ast.expr) -> object:
    """None for what is neither a literal nor a dict."""
    if isinstance(node, ast.Call):
        return {each.arg: _value(each.value) for each in node.keywords}
    if isinstance(node, ast.Dict):
        return {key.value: _value(value)
                for key, value in zip(node.keys, node.values)
                if isinstance(key, ast.Constant)}
    if isinstance(node, (ast.List, ast.Tuple)):
        kind = list if isinstance(node, ast.List) else tuple
        return kind(map(_value, node.elts))
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _differences(path: str, theirs: dict, ours: dict, trained: bool,
                 where: str = 'model') -> Iterator[tuple[str, str]]:
    """Go through both models at once, as far as they are built alike."""
    for key in (*ERRORS, *WARNINGS):
        if key not in theirs and key not in ours:
            continue
        old, new = (part[key] if key in part else
                    default_of(part.get('type'), key)
                    for part in (theirs, ours))
        if isinstance(old, dict) or isinstance(new, dict):
            old, new = plain(old), plain(new)
            if not (old and new):
                continue  # one of them is by default
        if plain(old) != plain(new):
            fault = 'other setting'
            if trained and key in ERRORS:
                fault = 'checkpoint'
            yield fault, (f'{path} was saved with {where}.{key} = {old}, the '
                          f'config says {new}')
    for key, value in theirs.items():
        mine = ours.get(key)
        pairs = [(value, mine, f'{where}.{key}')]
        if isinstance(value, (list, tuple)) and \
                isinstance(mine, (list, tuple)):
            pairs = [(a, b, f'{where}.{key}.{i}')
                     for i, (a, b) in enumerate(zip(value, mine))]
        for a, b, name in pairs:
            if isinstance(a, dict) and isinstance(b, dict) and \
                    key not in WARNINGS:
                yield from _differences(path, a, b, trained, name)
