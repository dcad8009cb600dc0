"""Files that would execute code, and files that are broken."""

import io
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch

from .budget import Budget
from .training import ROOT, log_of, run

CONFIG = str(ROOT / 'configs/cls/qsdt_digits.py')
FGD = str(ROOT / 'configs/cls/qsdt_fgd_digits.py')
# Ways on which mmengine would run an entry of the meta data.
RESUMING = ('train --resume PATH', 'train resume=True')
KINDS = ('zip', 'old', 'pickle', 'config')
SHORT = ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=8']


class Payload:
    """Makes a file when a careless reader unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, 'w')


def hostile_file(path: Path, mark: Path, good: dict, kind: str) -> None:
    """Write a checkpoint that would leave a mark if its code was executed.

    Args:
        path (Path): Of the file.
        mark (Path): What the payload makes.
        good (dict): A checkpoint that is otherwise in order.
        kind (str): 'zip', 'old' and 'pickle' are formats; 'config' is plain
            data, but mmengine runs that entry when it resumes.
    """
    if kind == 'config':
        code = f'open({str(mark)!r}, "w")'
        torch.save(dict(good, meta=dict(good['meta'], config=code)), path)
        return
    content = dict(good, hook=Payload(mark))
    if kind == 'pickle':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path,
                   _use_new_zipfile_serialization=kind == 'zip')


def paths_into_us(folder: Path, file: str) -> dict[str, list[str]]:
    """List every way by which a tool reads a checkpoint: name -> command."""
    out = str(folder / 'out')
    train = ['train.py', CONFIG, '--work-dir', out]
    options = ['--cfg-options', *SHORT]
    return {
        'train --resume PATH': [*train, '--resume', file, *options],
        'train resume=True': [*train, *options, 'resume=True',
                              f'load_from={file}'],
        'train load_from': [*train, *options, f'load_from={file}'],
        'train init_cfg': [
            *train, *options, 'model.backbone.init_cfg.type=Pretrained',
            f'model.backbone.init_cfg.checkpoint={file}'
        ],
        'train init_cfg of a whole model': [
            *train, *options, 'model.init_cfg.type=Pretrained',
            f'model.init_cfg.checkpoint={file}'
        ],
        'train teacher': [
            'train.py', FGD, '--work-dir', out, *options,
            f'custom_hooks.0.checkpoint={file}'
        ],
        'test': ['test.py', CONFIG, file, '--work-dir', out],
        'test load_from': ['test.py', CONFIG, 'good.pth', '--work-dir', out,
                           '--cfg-options', f'load_from={file}'],
        'convert_checkpoint': ['convert_checkpoint.py', file,
                               f'{out}.converted.pth'],
        'pack': ['pack.py', CONFIG, file, f'{out}.safetensors'],
        'pack --unpack': ['pack.py', CONFIG, file, f'{out}.unpacked.pth',
                          '--unpack'],
        'energy': ['energy.py', CONFIG, file, '--work-dir', out,
                   '--images', '1'],
        'predict': ['predict.py', CONFIG, file, 'data/digits/cls/val/0',
                    '--out', out],
        'publish': ['publish.py', CONFIG, file, '--out', f'{out}.hub'],
        'visualize': ['visualize.py', 'entropy', CONFIG, file, '--work-dir',
                      out, '--images', '1'],
        'visualize --teacher': [
            'visualize.py', 'entropy', CONFIG, 'good.pth', '--work-dir', out,
            '--images', '1', '--teacher', CONFIG, file
        ],
        'export_onnx': ['export_onnx.py', CONFIG, file, f'{out}.onnx'],
        'benchmark': ['benchmark.py', CONFIG, file, '--work-dir', out],
    }


def good_checkpoint(folder: Path) -> dict:
    """Write a checkpoint of the digits classifier to resume from."""
    from mmengine.config import Config

    from mmqsdt.utils.build import build_model
    model = build_model(Config.fromfile(CONFIG))
    content = dict(
        state_dict=model.state_dict(),
        meta=dict(epoch=0, iter=0, seed=0),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
        optimizer=dict(state={}, param_groups=[]))
    torch.save(content, folder / 'good.pth')
    return content


def broken_files(good: dict) -> Iterator[tuple[str, Callable, str]]:
    """List broken files: name, function that writes it, words of its error."""

    def saved(change: Callable[[dict], dict | None]) -> Callable:

        def write(path: Path) -> None:
            state = {k: v.clone() for k, v in good['state_dict'].items()}
            state = change(state) or state
            torch.save(dict(good, state_dict=state), path)

        return write

    def whole() -> bytes:
        file = io.BytesIO()
        torch.save(good, file)
        return file.getvalue()

    name = 'head.fc.weight'
    yield 'empty', lambda p: p.write_bytes(b''), 'is empty'
    yield 'a folder', lambda p: p.mkdir(), 'no checkpoint'
    yield 'truncated', lambda p: p.write_bytes(
        whole()[:-3000]), 'truncated or damaged'
    yield 'text', lambda p: p.write_bytes(
        b'epoch 3: 0.5\n' * 9), 'no file of torch.save'
    yield 'another zip', lambda p: zipfile.ZipFile(p, 'w').writestr(
        'x', 'y'), 'damaged'
    yield 'wrong shape', saved(lambda s: s.update(
        {name: torch.zeros(3, 128)})), 'another config'
    for value in ('nan', 'inf'):
        yield value, saved(lambda s, value=value: s.update(
            {name: torch.full_like(s[name], float(value))})), 'not finite'
    yield 'bomb', bomb, 'unpack to'
    yield 'claims', saved(lambda s: s.update(
        {name: torch.zeros(1).expand(10**6, 10**6)})), 'claims'
    yield 'another model', saved(
        lambda s: {f'net.{k}': v for k, v in s.items()}), '(lacks|another)'


def bomb(path: Path) -> None:
    """Write a megabyte that unpacks to a gigabyte."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('archive/data.pkl', b'\0' * 2**30)


def ways_and_kinds(ways: list[str] | None = None,
                   kinds: tuple[str, ...] = KINDS) -> list[tuple[str, str]]:
    """List what is given to the tools: all, or those named."""
    return [(way, kind)
            for way, kind in product(ways or paths_into_us(Path(), ''), kinds)
            if kind != 'config' or way in RESUMING]


def check_hostile(folder: Path, ways: list[str] | None = None,
                  kinds: tuple[str, ...] = KINDS,
                  budget: Budget | None = None) -> tuple[int, list[str]]:
    """Give every tool a checkpoint with a payload.

    Returns:
        tuple: How many files were given, and what went wrong.
    """
    good = good_checkpoint(folder)
    mark, path = folder / 'executed', folder / 'hostile.pth'
    budget, wrong = budget or Budget(), []
    commands = paths_into_us(folder, str(path))
    for way, kind in budget.each(ways_and_kinds(ways, kinds)):
        hostile_file(path, mark, good, kind)
        code = run(folder, *commands[way])
        if mark.exists():
            wrong.append(f'{way}: executed ({kind})')
            mark.unlink()
        # Plain data, and what a test does not read, may pass unnoticed.
        if kind != 'config' and way != 'test load_from' and (
                code == 0 or 'hostile.pth' not in log_of(folder)
                or 'Traceback' in log_of(folder)):
            wrong.append(f'{way}: no clear error ({kind}, exit {code}): '
                         f'{log_of(folder)[-300:]}')
    return budget.done, wrong


def files_and_tools(good: dict, folder: Path,
                    names: list[str] | None = None) -> list[tuple]:
    """List broken files, all or those named, and the tools that get them."""
    path, out = folder / 'broken.pth', folder / 'out'
    tools = (['train.py', CONFIG, '--work-dir', out, '--resume', path],
             ['train.py', CONFIG, '--work-dir', out, '--cfg-options',
              f'load_from={path}'],
             ['test.py', CONFIG, path, '--work-dir', out])
    return [(file, tool) for file, tool in product(broken_files(good), tools)
            if (names is None or file[0] in names)
            # A head of other classes is allowed there, with a warning.
            and (file[0] != 'wrong shape' or '--cfg-options' not in tool)]


def check_broken(folder: Path, names: list[str] | None = None,
                 budget: Budget | None = None) -> tuple[int, list[str]]:
    """Give training and testing broken checkpoints, all or those named.

    Returns:
        tuple: How many files were given, and what went wrong.
    """
    good = good_checkpoint(folder)
    path = folder / 'broken.pth'
    budget, wrong = budget or Budget(), []
    for (name, write, words), tool in budget.each(
            files_and_tools(good, folder, names)):
        write(path)
        code = run(folder, *map(str, tool))
        log = log_of(folder)
        last = log.strip().splitlines()[-1] if log.strip() else ''
        if code != 1 or 'Traceback' in log or not re.search(words, log) \
                or 'broken.pth' not in log:
            wrong.append(f'{tool[0]} {name}: exit {code}, {last[:200]}')
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return budget.done, wrong
