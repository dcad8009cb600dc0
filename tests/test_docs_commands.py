"""Every command of the pages runs, word by word as printed, on small data.

The data are digits, stand-ins in the formats of the real sets, and small data
of one's own; trainings last two iterations, large networks are built small.
Nothing else is changed. What is not run is in NOT_RUN, with the reason.
"""

import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from shared import forget_visualizers
from test_data.small_data import MAKERS
from torch.distributed.run import get_args_parser

from mmqsdt import QSDTransformer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]

ABLATION = 'hours; tests/test_experiments/test_ablation.py runs its tool'
BENCHMARK = 'minutes; test_benchmark_tool.py runs its tool'
HEADS = '18 trainings; tests/test_experiments/test_seeds.py runs its tool'
SWAP = 'tests/test_engine/test_swap.py runs each, with a tiny backbone'
ZOO = 'three trainings; tests/test_shipped.py runs its parts'
CALIBRATION = '21 trainings; test_calibration.py runs its parts'
# Beginning of a command -> why it is not run here.
NOT_RUN = {
    'make test': 'that is this',
    'make torture': 'half an hour; test_soak and test_reliability run parts',
    'make docs': 'tests/test_docs.py builds the site',
    'make zoo': ZOO,
    'mmqsdt -h': 'tests/test_import.py reads it',
    'python tools/swap.py': SWAP,
    'python tools/test.py configs/cls/qsdt_imagenet.py OURS.pth':
    'full-size weights; tests/test_checkpoints/test_convert.py has small ones',
    'python tools/train.py my_deformable_detr.py': SWAP,
    'python tools/train.py my_mask2former.py': SWAP,
    'make ablation': ABLATION,
    'python tools/ablation.py': ABLATION,
    'make benchmark': BENCHMARK,
    'make gpu-check': 'needs a GPU; test_gpu_check.py runs its checks',
    'python tools/benchmark.py CONFIG': BENCHMARK,
    'python tools/benchmark.py configs/cls/qsdt_imagenet.py --threads 1':
    BENCHMARK,
    'make heads': HEADS,
    'make calibration': CALIBRATION,
    'python tools/calibration.py': CALIBRATION,
    'python tools/costs.py': '30 trainings; test_costs.py runs its parts',
    'pip install': 'nothing is fetched; tests/test_docs.py checks the extras',
}
# What a reader puts in place of a word.
WORDS = {
    'CONFIG': 'configs/cls/qsdt_digits.py',
    'CHECKPOINT': 'work_dirs/qsdt_digits',
}
# Added at the end of a command, so that it takes seconds.
SMALLER = {
    'tools/prepare_data.py digits': '--num-train 4 --num-val 3',
    'tools/benchmark.py': '--rounds 1 --warmup 0 --sizes 32 --batches 1',
    'tools/compare_forms.py': '--images 2',
    'tools/distill_cost.py':
    '--rounds 1 --warmup 0 --sizes 32 64 --batch 1',
}
# Before all others: the demos, and what two pages distil.
DEMOS = [
    'make demo', 'make demo-cls', 'make demo-seg',
    'python tools/train.py configs/cls/qsdt-ann_digits.py',
    'python tools/train.py configs/cls/qsdt_fgd_digits.py'
]
# Of necks and heads; all of one model change together.
WIDTHS = {'in_channels', 'out_channels', 'feat_channels', 'conv_out_channels',
          'fc_out_channels'}
OWN_DATA = dict(flowers='folder', cells='coco', streets='pairs', birds='voc')
OUTPUTS = ('--out', '--show-dir', '--work-dir', '--json')
OUTPUT_SUFFIXES = ('.onnx', '.safetensors')


# Reading the pages


def commands(page: Path) -> list[str]:
    """What a page tells a reader to type, in its order."""
    text = page.read_text()
    fence = re.compile(r'^```(\w*)\n(.*?)^```', re.DOTALL | re.MULTILINE)
    found = [line for language, block in fence.findall(text)
             if language == 'bash'
             for line in block.replace('\\\n', ' ').splitlines()]
    found += re.findall(r'`(python tools/[^`]+|mmqsdt [a-z][^`]+|make [^`]+)`',
                        fence.sub('', text))
    # The installed command is the tool of that name.
    found = [re.sub(r'^mmqsdt (\w+)', r'python tools/\1.py', line)
             for line in found]
    lines = (shlex.join(shlex.split(line, comments=True)) for line in found)
    return list(dict.fromkeys(line for line in lines if line))


def reason(command: str) -> str | None:
    """Why a command is not run."""
    return next((why for beginning, why in NOT_RUN.items()
                 if f'{command} '.startswith(f'{beginning} ')), None)


def recipe(target: str) -> list[str]:
    """The commands that make runs for a target, installation left out."""
    done = subprocess.run(
        ['make', '--no-print-directory', '-n', '-o', 'install', 'PY=python',
         target], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.replace('\\\n', ' ').splitlines()


# Running them


def shorten(cfg: Config) -> Config:
    """Two iterations, in this process; a large network becomes tiny."""
    for part in ('train', 'val', 'test'):
        loader = cfg.get(f'{part}_dataloader')
        if not loader:
            continue
        loader.update(batch_size=2, num_workers=0, persistent_workers=False,
                      pin_memory=False)
        loader.pop('prefetch_factor', None)
        loader.dataset.indices = 4 if part == 'train' else 2
        shrink(loader.dataset.get('pipeline'))
    length = 2 if 'max_iters' in cfg.train_cfg else 1
    cfg.train_cfg.update({
        'max_iters' if length == 2 else 'max_epochs': length,
        'val_interval': length})
    cfg.default_hooks.checkpoint.interval = length
    cfg.default_hooks.logger.interval = 1
    for hook in cfg.get('custom_hooks') or []:
        if 'checkpoint' in hook:  # the teacher's only epoch
            hook.checkpoint = re.sub('_[0-9]+', '_1', hook.checkpoint)
        if 'imagenet' in hook.get('teacher', ''):
            hook.teacher = shorten(Config.fromfile(ROOT / hook.teacher)).model
    arch = cfg.model.backbone.get('arch', 'tiny')
    if isinstance(arch, str) and arch != 'tiny':
        cfg.model.backbone.arch = 'tiny'
        narrow = dict(zip(QSDTransformer(arch).channels,
                          QSDTransformer('tiny').channels))
        neck = cfg.model.get('neck') or {}
        if 'in_channels' in neck:
            neck.in_channels = [narrow[c] for c in neck.in_channels]
        else:
            cfg.model.head.in_channels = narrow[cfg.model.head.in_channels]
        narrow_heads(cfg.model)
    shrink(cfg.model)
    return cfg


def shrink(part: object) -> None:
    """Large images and many regions, at any depth."""
    if isinstance(part, dict):
        for key in {'scale', 'scales', 'crop_size', 'size'} & part.keys():
            part[key] = eighth(part[key])
        for key in {'num', 'nms_pre', 'max_per_img'} & part.keys():
            part[key] = min(part[key], 16)
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for each in part:
            shrink(each)


def eighth(size: object) -> object:
    if isinstance(size, (list, tuple)):
        return type(size)(eighth(each) for each in size)
    return size // 8 if isinstance(size, int) and size > 256 else size


def narrow_heads(part: object) -> None:
    """What stands behind the backbone, at any depth."""
    if isinstance(part, dict):
        for key in WIDTHS & part.keys():
            part[key] = narrower(part[key])
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for each in part:
            narrow_heads(each)


def narrower(width: object) -> object:
    if isinstance(width, (list, tuple)):
        return type(width)(narrower(each) for each in width)
    return {256: 16, 1024: 32}.get(width, width)


class Reader:
    """Somebody in a fresh clone who types what the pages say.

    Args:
        folder (Path): The clone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: set[str] = set()

    def enter(self, command: str) -> None:
        """Run a command, unless it was; fail if it fails."""
        if command in self.done or reason(command):
            return
        words = shlex.split(command)
        with pytest.MonkeyPatch.context() as patch:
            if words[0] == 'make':
                for line in recipe(words[1]):
                    self.enter(line)
            elif words[0] == 'torchrun':
                # torchrun's own parser; its processes are only this one.
                args = get_args_parser().parse_args(words[1:])
                with socket.create_server(('127.0.0.1', 0)) as free:
                    port = str(free.getsockname()[1])
                for name, value in dict(
                        RANK='0', LOCAL_RANK='0', WORLD_SIZE='1',
                        MASTER_ADDR='127.0.0.1', MASTER_PORT=port).items():
                    patch.setenv(name, value)
                try:
                    self.run(patch, [args.training_script,
                                     *args.training_script_args])
                finally:
                    if torch.distributed.is_initialized():
                        torch.distributed.destroy_process_group()
            else:
                assert words[0] == 'python', command
                self.run(patch, words[1:])
        self.done.add(command)

    def run(self, patch: pytest.MonkeyPatch, words: list[str]) -> None:
        """Run one of our tools in this process."""
        words = [WORDS.get(w.strip('[]'), w.strip('[]')) for w in words]
        more = [m for start, m in SMALLER.items()
                if ' '.join(words).startswith(start)]
        words += shlex.split(*more) if more else []
        is_hub = 'huggingface' in words  # into the usual places
        folder = self.folder / 'downloads' if is_hub else self.folder
        patch.chdir(folder)
        patch.setattr(sys, 'argv', words)
        main = runpy.run_path(str(ROOT / words[0]))['main']
        tool = sys.modules[main.__module__]
        load_config = getattr(tool, 'load_config', None)
        patch.setattr(tool, 'load_config',
                      lambda args: watched(shorten(load_config(args))),
                      raising=False)
        forget_visualizers()
        DefaultScope._instance_dict.clear()
        threads, environment = torch.get_num_threads(), dict(os.environ)
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, f'{shlex.join(words)}\n{stop.code}'
        finally:
            torch.set_num_threads(threads)
            os.environ.clear()
            os.environ.update(environment)
        for path in outputs(words):
            found = folder / path
            assert found.is_file() or list(found.iterdir()), path


def watched(cfg: Config) -> Config:
    """With the hook of docs/visualize.md, whose figures it then draws."""
    if cfg.filename and Path(cfg.filename).name == 'qsdt_digits.py':
        cfg.custom_hooks = [dict(type='mmqsdt.SpikeMonitorHook', interval=1,
                                 window=1)]
    return cfg


def outputs(words: list[str]) -> list[str]:
    """Files and folders that a command names for its results."""
    named = [words[i + 1] for i, w in enumerate(words) if w in OUTPUTS]
    return named + [w for w in words if w.endswith(OUTPUT_SUFFIXES)]


@pytest.fixture(scope='module')
def reader(tmp_path_factory) -> Iterator[Reader]:
    """With all data in place, and the demos trained."""
    for name in ('sklearn', 'mmpretrain.models', 'mmdet.models',
                 'mmseg.models', 'datasets', 'onnxruntime'):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp('clone')
    for name in ('configs', 'docs', 'tools', 'tests'):
        (folder / name).symlink_to(ROOT / name)
    reader = Reader(folder)
    with pytest.MonkeyPatch.context() as patch:
        for command in DEMOS:
            reader.enter(command)
        leave_few(folder / 'data/digits/cls')
        put_data(folder, patch)
        yield reader


def leave_few(folder: Path) -> None:
    """Three pictures of each digit, and what a page names."""
    named = ' '.join(page.read_text() for page in PAGES)
    for digit in folder.glob('*/*'):
        for picture in sorted(digit.iterdir())[3:]:
            if picture.relative_to(folder).as_posix() not in named:
                picture.unlink()


def put_data(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """What a reader has: data sets, the hub's files, checkpoints, logs."""
    from mmpretrain.datasets import CIFAR10
    from test_data import test_events, test_huggingface
    from test_tools import ade_stand_in, coco_stand_in, imagenet_stand_in
    from test_zoo import CIFAR, cifar_stand_in
    for make in (ade_stand_in, coco_stand_in, imagenet_stand_in,
                 test_events.dvs_stand_in):
        make(folder)
    test_events.forbid_downloads(folder, patch)
    for name in CIFAR:
        cifar_stand_in(folder, name)
    patch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    for name, kind in OWN_DATA.items():
        MAKERS[kind](folder / 'data' / name)
    (folder / 'data/streets/classes.txt').unlink()  # the page names classes
    for name, make in (('imagenet-1k', test_huggingface.imagenet),
                       ('ADE20K', test_huggingface.ade),
                       ('coco', test_huggingface.coco)):
        make(folder / 'downloads/hub' / name)
    # A classifier of ImageNet, and one by the authors.
    torch.save(QSDTransformer('tiny').state_dict(),
               folder / 'qsdt_imagenet.pth')
    golden = np.load(ROOT / 'tests/data/tiny_cls.npz')
    torch.save(dict(model={
        key.removeprefix('state/'): torch.tensor(value)
        for key, value in golden.items() if key.startswith('state/')
        and value.dtype.kind != 'U'}), folder / 'THEIRS.pth')
    # The three trainings that docs/visualize.md compares.
    for name in ('stock', 'spiking', '4-bit'):
        shutil.copytree(folder / 'work_dirs/qsdt_fpn_digits',
                        folder / 'work_dirs' / name)


def page_name(page: Path) -> str:
    return page.name


@pytest.mark.parametrize('page', [p for p in PAGES if commands(p)],
                         ids=page_name)
def test_commands_of_a_page(page, reader):
    for command in commands(page):
        reader.enter(command)


def test_commands_of_a_model_card(reader):
    """Of what publishing wrote; in its folder, by the package's name."""
    publish = next(c for c in commands(ROOT / 'docs/checkpoints.md')
                   if 'publish.py' in c)
    reader.enter(publish)
    folder = reader.folder / 'published'
    ran = commands(folder / 'README.md')
    assert [c.split()[3] for c in ran[1:]] == ['predict', 'test']
    for command in ran[1:]:
        words = shlex.split(command.replace(
            'PICTURES', str(reader.folder / 'data/digits/cls/val/3')))
        with pytest.MonkeyPatch.context() as patch:
            reader.run(patch, [f'tools/{words[3]}.py', *(
                str(folder / w) if (folder / w).exists() else w
                for w in words[4:])])


def test_what_is_not_run_is_on_a_page():
    every = [c for page in PAGES for c in commands(page)]
    for beginning in NOT_RUN:
        assert any(c.startswith(beginning) for c in every), beginning
