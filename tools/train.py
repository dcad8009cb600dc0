"""Train a config of any of the three frameworks.

    python tools/train.py configs/det/qsdt_maskrcnn_coco.py
    python tools/train.py --list coco
"""

import argparse

import mmqsdt  # noqa: F401  before any framework: brings mmcv's ops
from mmengine.runner import Runner

from mmqsdt.amp import use_amp
from mmqsdt.launch import (add_common_arguments, check_data, check_framework,
                           load_config)
from mmqsdt.smoke import smoke
from mmqsdt.zoo import list_zoo, print_zoo


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config', nargs='?', help='path of the config, or its name in --list')
    parser.add_argument(
        '--list', nargs='?', const='', metavar='PATTERN',
        help='show the shipped configs, or those that match, and stop')
    parser.add_argument(
        '--smoke', action='store_true',
        help='a few iterations of this model on the digits, to see it run; '
        'work dir: work_dirs/<config name>_smoke')
    parser.add_argument(
        '--amp', action='store_true',
        help='mixed precision: float16 on CUDA, bfloat16 on the CPU')
    parser.add_argument(
        '--resume', nargs='?', const='auto',
        help='continue from a checkpoint; without a path, from the last one '
        'in the work dir')
    parser.add_argument(
        '--auto-scale-lr', action='store_true',
        help='scale the learning rate to the batch size actually used')
    add_common_arguments(parser)
    args = parser.parse_args()
    if args.config is None and args.list is None:
        parser.error('name a config; --list shows those that ship')
    return args


def main() -> None:
    args = parse_args()
    try:
        if args.list is not None:
            return print_zoo(list_zoo(args.list))
        cfg = load_config(args)
        check_framework(cfg)
        if args.smoke:
            print(smoke(cfg))
            cfg.work_dir = args.work_dir or f'{cfg.work_dir}_smoke'
        check_data(cfg, ('train', 'val'))
        if args.amp:
            use_amp(cfg.optim_wrapper)
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        if args.auto_scale_lr:
            cfg.auto_scale_lr.enable = True
        runner = Runner.from_cfg(cfg)
    except (OSError, ImportError, TypeError, ValueError) as error:
        raise SystemExit(str(error)) from None
    runner.train()


if __name__ == '__main__':
    main()
