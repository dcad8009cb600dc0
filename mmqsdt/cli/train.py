"""Train a config of any of the three frameworks.

    python tools/train.py configs/det/qsdt_maskrcnn_coco.py
    python tools/train.py --list coco
"""

import argparse

from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from torch.distributed.elastic.multiprocessing.errors import record

from ..checkpoints.read import reading_once
from ..checkpoints.resume import check_fits, set_resume
from ..data.check import refuse_faults
from ..data.questions import ask
from ..data.skip import skip_broken, watch_labels
from ..data.sources import check_data
from ..engine.amp import use_amp
from ..engine.batches import check_batches
from ..engine.distributed import (
    ends_together,
    join_processes,
    name_lost_workers,
)
from ..engine.estimate import announce
from ..engine.quiet import build_runner, quiet
from ..utils.frameworks import check_framework
from .calibrate import start_from_ann
from .common import (
    add_common_arguments,
    check_length,
    load_config,
    scale_lr,
    work_of,
)
from .ending import ToolParser, command
from .smoke import smoke
from .zoo import list_zoo, print_zoo


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        'config', nargs='?', help='path of the config, or its name in --list')
    parser.add_argument(
        '--list', nargs='?', const='', metavar='PATTERN',
        help='show the shipped configs, or those that match, and stop')
    parser.add_argument(
        '--smoke', action='store_true',
        help='a few iterations of this model on its data, or on the digits if '
        'they are not there, to see it run; work dir: '
        'work_dirs/<config name>_smoke')
    parser.add_argument(
        '--amp', action='store_true',
        help='mixed precision: float16 on CUDA, bfloat16 on the CPU')
    parser.add_argument(
        '--resume', nargs='?', const='auto',
        help='continue from a checkpoint; without a path, from the last one '
        'in the work dir that is whole')
    parser.add_argument(
        '--from-ann', metavar='CHECKPOINT',
        help='start as the ANN counterpart of this checkpoint, or work dir, '
        'calibrated on 64 images as by tools/calibrate.py; a training that '
        'is resumed has this behind it')
    parser.add_argument(
        '--unsafe-load', action='store_true',
        help='RISK: let checkpoints execute any code while they are read, as '
        'pickle does; for files of your own only')
    parser.add_argument(
        '--auto-scale-lr', action='store_true',
        help='scale the learning rate to the batch size actually used')
    add_common_arguments(parser)
    args = parser.parse_args()
    if args.config is None and args.list is None:
        parser.error('name a config; --list shows the shipped ones')
    return args


def prepare(cfg: Config, args: argparse.Namespace) -> None:
    """Find out what is wrong before anything is built."""
    check_length(cfg)
    check_data(cfg, ('train', 'val'))
    resume = args.resume or cfg.get('resume') and (
        cfg.get('load_from') or 'auto')
    if resume:
        set_resume(cfg, resume, args.unsafe_load)
    ask(cfg, ('train', 'val'), cfg.get('load_from'),
        trained=bool(cfg.get('resume')))
    refuse_faults(cfg, ('train', 'val'), keep=True)
    skip_broken(cfg)
    watch_labels(cfg, 'val')
    if args.amp:
        use_amp(cfg.optim_wrapper)
    if args.auto_scale_lr:
        scale_lr(cfg)


@record  # torchrun then shows the first error
@command
def main() -> None:
    args = parse_args()
    if args.list is not None:
        return print_zoo(list_zoo(args.list))
    with quiet(args.verbose):
        train(args)


def train(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    check_framework(cfg)
    if args.smoke:
        print(smoke(cfg, own_data=True))
        cfg.work_dir = args.work_dir or f'{cfg.work_dir}_smoke'
    join_processes(cfg)
    with reading_once():
        with ends_together():
            prepare(cfg, args)
        if args.from_ann and not cfg.get('resume'):
            start_from_ann(cfg, args.from_ann)
        runner = build_runner(cfg, args.verbose)
        check_fits(runner.model, cfg)
    check_batches(runner)
    if not args.smoke and not is_distributed():
        text = announce(runner)
        if text:
            print_log(text, 'current')
    with name_lost_workers(), work_of(runner):
        runner.train()
