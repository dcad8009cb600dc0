"""From a command line to a runner or a model: what the tools share.

Everything that can be known to fail is checked here, before a model is
built or a file is written.
"""

import argparse
import os
from collections.abc import Iterator
from copy import deepcopy
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from .reliability.loading import find_checkpoints, guard_loading
from .utils import find_config, tool_command

# Keys that a config may lack, besides those of mmengine's Runner.
MORE_KEYS = ('auto_scale_lr', 'compile', 'energy_costs',
             'find_unused_parameters', 'sync_bn', 'tta_model', 'tta_pipeline')

# scope of a config -> (pip extra, what it is for)
FRAMEWORKS = dict(
    mmpretrain=('cls', 'classification'),
    mmdet=('det', 'detection'),
    mmseg=('seg', 'segmentation'))

# part of a data root -> (name, where it comes from)
DATA_SOURCES = dict(
    digits=('the digits scenes',
            f'made on this machine: {tool_command("prepare_data")} digits'),
    coco=('COCO 2017', 'https://cocodataset.org/#download: train2017, '
          'val2017 and their annotations, unpacked side by side'),
    imagenet=('ImageNet-1k', 'https://image-net.org: train/ and val/ with a '
              'folder for each class'),
    ade=('ADE20K', 'https://groups.csail.mit.edu/vision/datasets/ADE20K: '
         'ADEChallengeData2016.zip'),
    cifar10=('CIFAR-10', 'https://www.cs.toronto.edu/~kriz/cifar.html: '
             'cifar-10-python.tar.gz, unpacked in data/cifar10'),
    cifar100=('CIFAR-100', 'https://www.cs.toronto.edu/~kriz/cifar.html: '
              'cifar-100-python.tar.gz, unpacked in data/cifar100'),
    cifar10dvs=('CIFAR10-DVS', 'https://figshare.com/articles/dataset/'
                'CIFAR10-DVS_New/4724671: the ten .zip files, as they are, in '
                'data/cifar10dvs/download'))

# Data sets that read a folder of a fixed name in their data_root.
FIXED_FOLDERS = dict(
    CIFAR10='cifar-10-batches-py', CIFAR100='cifar-100-python')

DEMOS = dict(
    mmpretrain='configs/cls/qsdt_digits.py',
    mmdet='configs/det/qsdt_maskrcnn_digits.py',
    mmseg='configs/seg/qsdt_fpn_digits.py')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that training and testing share."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; '
                        'default: work_dirs/<config name>')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override config entries: key=value, nested key.sub=value, '
        'lists key="[a,b]"')
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='how several processes are started; pytorch: torchrun')
    # What torch.distributed.launch passes; torchrun sets the variable.
    parser.add_argument(
        '--local-rank', '--local_rank', type=int, default=0,
        help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config, by path or shipped name, and merge the arguments.

    From here on this process reads checkpoints safely, unless the arguments
    have unsafe_load: see :func:`mmqsdt.reliability.loading.guard_loading`.

    Raises:
        FileNotFoundError: If there is no such config; suggests the nearest.
        ValueError: If --cfg-options name a key that no config has.
    """
    guard_loading(getattr(args, 'unsafe_load', False))
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(find_config(args.config))
    if args.cfg_options:
        known = {*cfg, *signature(Runner.__init__).parameters, *MORE_KEYS}
        for key in args.cfg_options:
            top = key.split('.')[0]
            if top not in known:
                near = get_close_matches(top, known, n=1)
                hint = f'; did you mean {near[0]}?' if near else ''
                raise ValueError(f'--cfg-options {key}: the config has no '
                                 f'{top}{hint}')
        cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = f'work_dirs/{Path(args.config).stem}'
    return cfg


def check_framework(cfg: Config) -> None:
    """Import the framework a config is written for.

    Raises:
        ImportError: If it cannot be imported; names what to install.
    """
    scope = cfg.get('default_scope', 'mmengine')
    if scope not in FRAMEWORKS:
        return
    extra, task = FRAMEWORKS[scope]
    try:
        import_module(f'{scope}.models')
    except ImportError as error:
        raise ImportError(
            f'This config is for {task} with {scope}, which cannot be '
            f'imported ({error}).\n  install it: pip install '
            f'"mmqsdt[{extra}]"  (in a checkout: make install)') from error


def check_data(cfg: Config, parts: tuple[str, ...]) -> None:
    """Check that the data sets of a config are where it says.

    Args:
        cfg (Config): A config of any of the three frameworks.
        parts (tuple[str]): Of 'train', 'val', 'test'.

    Raises:
        FileNotFoundError: Names what was looked for, where it comes from,
            and the demo that runs without it.
    """
    missing = []
    for part in parts:
        loader = cfg.get(f'{part}_dataloader') or {}
        for dataset in leaf_datasets(loader.get('dataset')):
            missing += [p for p in dataset_paths(dataset) if not p.exists()]
        evaluators = cfg.get(f'{part}_evaluator') or []
        if isinstance(evaluators, dict):
            evaluators = [evaluators]
        missing += [
            Path(e['ann_file']) for e in evaluators
            if e.get('ann_file') and not Path(e['ann_file']).exists()
        ]
    if not missing:
        return
    missing = list(dict.fromkeys(map(str, missing)))
    text = ['The data set of this config is not there.']
    text += [f'  looked for: {path}' for path in missing]
    for part, (name, source) in DATA_SOURCES.items():
        if any(part in Path(path).parts for path in missing):
            text.append(f'  {name}: {source}')
            text.append('  it can also be a link: ln -s /where/it/is '
                        f'data/{part}')
            break
    else:
        text.append('  set data_root, ann_file and data_prefix of its '
                    'dataloaders to your data')
    demo = DEMOS.get(cfg.get('default_scope'))
    if demo and 'digits' not in missing[0]:
        text.append(f'  without it: {tool_command("prepare_data")} digits && '
                    f'{tool_command("train")} {demo}')
    raise FileNotFoundError('\n'.join(text))


def leaf_datasets(dataset: dict | None) -> Iterator[dict]:
    """The data sets inside wrappers such as RepeatDataset, ConcatDataset."""
    if dataset is None:
        return
    inner = dataset.get('datasets') or [dataset.get('dataset')]
    if inner == [None]:
        yield dataset
    else:
        for each in inner:
            yield from leaf_datasets(each)


def dataset_paths(dataset: dict) -> list[Path]:
    """Files and folders that a data set config will read."""
    root = dataset.get('data_root') or ''
    folder = FIXED_FOLDERS.get(str(dataset.get('type')).split('.')[-1])
    if folder:
        return [Path(root, dataset.get('data_prefix') or '', folder)]
    names = []
    if dataset.get('ann_file'):
        names.append(dataset['ann_file'])
    prefix = dataset.get('data_prefix') or {}
    if isinstance(prefix, str):
        prefix = dict(img=prefix)
    names += [p for p in prefix.values() if p]
    if not names and dataset.get('split'):  # ImageNet by split
        names.append(dataset['split'])
    if not names and root:
        names.append('')
    return [Path(root, name) for name in names]


def draw_predictions(cfg: Config, out_dir: str | None, number: int | None,
                     show: bool) -> None:
    """Have a test run draw its predictions beside the truth.

    Args:
        cfg (Config): Changed in place.
        out_dir (str, optional): Where the pictures go.
        number (int, optional): How many; None draws all.
        show (bool): Open windows.
    """
    hooks = list(cfg.get('custom_hooks') or [])
    hooks.append(
        dict(
            type='mmqsdt.DrawPredictionsHook',
            out_dir=out_dir,
            number=number,
            show=show))
    cfg.custom_hooks = hooks


def use_tta(cfg: Config) -> None:
    """Test with the augmentation that a config describes.

    Raises:
        KeyError: If it describes none.
    """
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise KeyError('--tta needs tta_model and tta_pipeline in the config')
    cfg.model = dict(cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def use_double(model: nn.Module) -> None:
    """Compute in float64, where no rounding tells the forms apart.

    Masks of mmdet are still pasted in float32, which is all that it can.
    """
    model.double()
    if not any(hasattr(m, 'mask_head') for m in model.modules()):
        return
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head
    paste = fcn_mask_head._do_paste_mask
    fcn_mask_head._do_paste_mask = lambda masks, boxes, *args, **kwargs: (
        paste(masks.float(), boxes.float(), *args, **kwargs))


def find_checkpoint(path: str) -> str:
    """A checkpoint file as given, or the last one of a work dir.

    Raises:
        FileNotFoundError: If there is none.
    """
    if Path(path).is_dir():
        found = find_checkpoints(path)
        if not found:
            raise FileNotFoundError(f'no checkpoint in {path}: nothing was '
                                    'trained there yet')
        return found[0]
    if '://' not in path and not Path(path).is_file():
        raise FileNotFoundError(f'no checkpoint at {path}')
    return path


def check_length(cfg: Config) -> None:
    """Refuse a training of no iteration.

    Raises:
        ValueError: If max_epochs or max_iters is no whole number above 0.
    """
    for name in ('max_epochs', 'max_iters'):
        length = (cfg.get('train_cfg') or {}).get(name, 1)
        if isinstance(length, bool) or length != int(length) or length < 1:
            raise ValueError(f'train_cfg.{name} must be a whole number from '
                             f'1 on, got {length!r}: nothing would be '
                             'trained')


def is_from_mmqsdt(error: BaseException) -> bool:
    """Whether an error was raised in mmqsdt, whose messages say it all."""
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    package = Path(__file__).resolve().parent
    return package in Path(place.tb_frame.f_code.co_filename).resolve().parents


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, in eval mode, weights as initialised.

    Raises:
        ValueError: If the config has no model.
    """
    if 'model' not in cfg:
        raise ValueError('the config has no model')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return MODELS.build(cfg.model).eval()


def load_batches(cfg: Config, part: str, images: int) -> list:
    """The first batches of a data loader of the config.

    Args:
        cfg (Config): Of any of the three frameworks.
        part (str): 'train', 'val' or 'test'.
        images (int): How many at least, if there are so many.

    Raises:
        ValueError: If the config has no such loader, or images < 1.
    """
    loader = deepcopy(cfg.get(f'{part}_dataloader'))
    if not loader or images < 1:
        raise ValueError(f'the config has no {part}_dataloader' if images > 0
                         else f'images must be at least 1, got {images}')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader.batch_size = min(loader.batch_size, images, 8)
    loader.num_workers = 0
    loader.pop('persistent_workers', None)
    loader.pop('prefetch_factor', None)
    batches, count = [], 0
    for batch in Runner.build_dataloader(loader):
        batches.append(batch)
        count += len(batch['inputs'])
        if count >= images:
            break
    return batches
