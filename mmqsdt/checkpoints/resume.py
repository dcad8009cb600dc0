"""Choose the checkpoint to resume from, and read it safely."""

import os
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import load_from_local as load_unsafely
from torch import nn

from ..utils.shipped import SCHEME, resolve_weights
from .fit import first_fault, fit, other_neuron
from .packing import is_packed, unpacked
from .read import (
    check_finite,
    check_sums,
    find_state_dict,
    read_checkpoint,
    safe_checkpoint_classes,
)

STATE = 'mmqsdt'  # our entry in a checkpoint
INTERRUPTED = 'interrupted.pth'
# torch.load then unpickles no code, whatever its caller asks for.
FORCE_SAFE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
# mmengine's own list of safe classes has a getattr that can return anything.
UNSAFE_CLASSES = getattr(mmengine_checkpoint, 'get_torch_safe_globals', None)


def load_from_local(filename: str, map_location: object = None) -> object:
    """Load a local file as mmengine does, without its unsafe second try.

    Packed weights, too, and those that ship, ``mmqsdt://NAME``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or asks to execute code.
    """
    filename = os.path.expanduser(resolve_weights(filename))
    if is_packed(filename):
        return unpacked(filename)
    content = read_checkpoint(filename, map_location)
    if isinstance(content, dict) and isinstance(content.get('meta'), dict):
        # Runner.resume would execute 'config' as Python. Runners write 'cfg'.
        content['meta'].pop('config', None)
    return content


# Known as soon as a class of mmqsdt is built, whoever's tool it is.
CheckpointLoader.register_scheme(SCHEME, load_from_local, force=True)


def guard_loading(unsafe: bool = False) -> None:
    """Make this process and its workers read checkpoints safely, or not.

    When the safe way fails, mmengine unpickles a checkpoint again without
    protection. This forbids it for every caller of ``torch.load``: load_from,
    resume, init_cfg and downloads.

    Args:
        unsafe (bool): Leave the frameworks as they are: a checkpoint can
            then execute any code here. Defaults to False.
    """
    if unsafe:
        os.environ.pop(FORCE_SAFE, None)
    else:
        os.environ[FORCE_SAFE] = '1'
        os.environ.pop('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None)
    mmengine_checkpoint.get_torch_safe_globals = \
        UNSAFE_CLASSES if unsafe else safe_checkpoint_classes
    CheckpointLoader.register_scheme(
        '', load_unsafely if unsafe else load_from_local, force=True)


def set_resume(cfg: Config, path: str, unsafe: bool = False) -> None:
    """Make a config resume from a checkpoint.

    Args:
        cfg (Config): Changed in place: load_from, resume and, unless it sets
            a seed, the seed of the training that is resumed.
        path (str): Of the checkpoint; 'auto' takes the last good one of the
            work dir, or starts a new training if there is none.
        unsafe (bool): See :func:`guard_loading`.

    Raises:
        FileNotFoundError: If there is no checkpoint at a path given.
        ValueError: If it cannot be resumed from, or is not on this machine;
            with 'auto', if that is so for all in the work dir.
    """
    if '://' in path and not unsafe:
        # mmengine would load it once more, and run what it has for a config.
        raise ValueError('expected a checkpoint on this machine to resume '
                         f'from, got {path}: download it first')
    if path == 'auto':
        path = last_good_checkpoint(cfg.work_dir, unsafe)
        if path is None:
            print_log(f'--resume: no checkpoint in {cfg.work_dir} yet, '
                      'a new training starts', logger='current')
            cfg.resume = False
            return
    content = read_resumable(path, unsafe)
    cfg.load_from, cfg.resume = path, True
    seed = content['meta'].get('seed')
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is None and seed is not None:
        # Data loaders are built before mmengine looks for it.
        cfg.randomness = dict(randomness, seed=seed)


def last_good_checkpoint(work_dir: str, unsafe: bool = False) -> str | None:
    """Find the newest checkpoint of a work dir that can be resumed from.

    Returns:
        str | None: Its path; None if there are no checkpoints at all.

    Raises:
        ValueError: If there are, but none is good.
    """
    candidates = find_checkpoints(work_dir)
    reasons = []
    for path in candidates:
        try:
            read_resumable(path, unsafe)
        except (OSError, ValueError) as error:
            reasons.append(str(error))
            print_log(f'SKIPPED: {error}', logger='current', level=30)
            continue
        if reasons:
            print_log(f'Resuming from {path} instead.', logger='current',
                      level=30)
        return path
    if candidates:
        raise ValueError(f'none of the {len(candidates)} checkpoints in '
                         f'{work_dir} can be resumed from. The newest: '
                         f'{reasons[0]}')
    return None


def find_checkpoint(path: str) -> str:
    """Return a checkpoint file as given, or a work dir's latest one.

    Raises:
        FileNotFoundError: If there is none.
    """
    if Path(path).is_dir():
        found = find_checkpoints(path)
        if not found:
            raise FileNotFoundError(f'no checkpoint in {path}: nothing was '
                                    'trained there yet')
        return found[0]
    path = resolve_weights(path)
    if '://' not in path and not Path(path).is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    return path


def find_checkpoints(work_dir: str) -> list[str]:
    """List the checkpoints of a work dir, the newest first."""
    folders, last = [Path(work_dir)], ''
    pointer = folders[0] / 'last_checkpoint'
    if pointer.is_file():
        text = pointer.read_bytes().decode(errors='replace').strip('\0 \n')
        last = Path(text).name
        if last != text:
            # Either the hook has another out_dir, or this folder was moved or
            # copied. So look here first, and then where it points to.
            folders.append(Path(text).parent)
    paths = []
    for folder in folders:
        numbered = [(int(m[1]), p) for p in folder.glob('*.pth')
                    if (m := re.fullmatch(r'(?:epoch|iter)_(\d+)', p.stem))]
        paths += [folder / last, folder / INTERRUPTED,
                  *(path for _, path in sorted(numbered, reverse=True))]
    found = [str(p) for p in paths if p.suffix and p.is_file()]
    unique: dict[str, str] = {}
    for path in found:
        unique.setdefault(os.path.abspath(path), path)
    return list(unique.values())


def read_resumable(path: str, unsafe: bool = False) -> dict:
    """Read the checkpoint of a training and check that it is complete.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, asks to execute code, lacks what a
            resumed training needs, or its weights are not finite.
    """
    if unsafe:
        content = load_unsafely(path, 'cpu')
        check_sums(path)
    else:
        content = read_checkpoint(path, sums=True)
    content = content if isinstance(content, dict) else {}
    lacking = [key for key in ('meta', 'state_dict', 'message_hub',
                               'optimizer')
               if not isinstance(content.get(key), dict)]
    lacking += [f'meta.{key}' for key in ('epoch', 'iter')
                if not isinstance(content.get('meta', {}).get(key), int)]
    if lacking:
        raise ValueError(
            f'{path} cannot be resumed from, it has no '
            f'{", ".join(lacking)}; to start from weights alone, use '
            'load_from')
    ours = content.get(STATE)
    infinite = ours.get('infinite', ()) if isinstance(ours, dict) else ()
    check_finite(path, find_state_dict(content, path), set(infinite))
    return content


def check_fits(model: nn.Module, cfg: Config) -> None:
    """Check that the checkpoint a config loads is of its model.

    Args:
        model (nn.Module): As built, possibly wrapped.
        cfg (Config): With load_from and resume.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, if nothing matches, or, to resume,
            if any key or shape differs.
    """
    path = resolve_weights(cfg.get('load_from') or '')
    if not path or '://' in path:
        return
    content = CheckpointLoader.load_checkpoint(path, 'cpu', logger='silent')
    found = find_state_dict(content, path, ('state_dict', ))
    found = {re.sub(r'^module\.', '', k): v for k, v in found.items()}
    model = getattr(model, 'module', model)
    own = model.state_dict()
    compared = fit(own, found)
    missing, shapes = compared.missing, compared.shapes
    name = type(model).__name__
    if len(missing) + len(shapes) == len(own):
        raise ValueError(f'{path} is of another model: none of the '
                         f'{len(own)} entries of this {name} is in it with '
                         f'the same shape, e.g. {next(iter(own))}')
    # Thresholds and counters have one shape in every arch; a head of other
    # classes is left out with a warning.
    known = [k for k in own if k in found and own[k].numel() > 1]
    if 2 * len(shapes) > len(known) and not cfg.resume:
        raise ValueError(f'{path} is of another arch: of {len(known)} '
                         f'entries of this {name} {len(shapes)} have another '
                         f'shape. First: {shapes[0]}')
    if cfg.resume and (shapes or missing):
        hint = '' if shapes else other_neuron(model, found)
        raise ValueError(f'{path} was saved' + (
            hint or f' from another config: {len(shapes)} shapes differ and '
            f'{len(missing)} of {len(own)} entries of this {name} are '
            f'missing. First: {first_fault(compared)}'))
    check_finite(path, found, {k for k, _ in model.named_buffers()})
