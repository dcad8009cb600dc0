"""What FGD adds to a training step, and how that grows with the resolution.

    python tools/distill_cost.py configs/cls/qsdt_fgd_imagenet.py \\
        --sizes 224 448

The plain step, the step with FGD and the parts of FGD take turns, so that
whatever else the machine does falls upon all of them.
"""

import argparse
from pathlib import Path

import mmqsdt  # noqa: F401  before any framework: brings mmcv's ops
import torch
from mmengine.config import DictAction
from mmengine.logging import MMLogger

from mmqsdt.analysis.benchmark import CLOCKS
from mmqsdt.analysis.distill_cost import (DistillCost, find_hook, measure,
                                          print_cost)
from mmqsdt.launch import check_framework, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config', help='path of a config with a FGDistillHook; its weights '
        "and the teacher's are random, which changes no time")
    parser.add_argument('--batch', type=int, default=4, help='default: 4')
    parser.add_argument(
        '--sizes', nargs='+', type=int, default=[224, 448],
        help='sides of the images; from two on the growth is fitted; '
        'default: 224 448')
    parser.add_argument(
        '--rounds', type=int, default=15, help='default: 15')
    parser.add_argument(
        '--warmup', type=int, default=2, help='default: 2')
    parser.add_argument('--threads', type=int, help="default: PyTorch's")
    parser.add_argument(
        '--clock', choices=CLOCKS, default='wall',
        help='wall, or cpu: processor time, all threads added up, for a busy '
        'machine and --threads 1; default: wall')
    parser.add_argument(
        '--work-dir', help='where distill_cost.json goes; default: '
        'work_dirs/<config name>')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction,
        help='override config entries: key=value')
    parser.set_defaults(launcher='none', local_rank=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    MMLogger.get_current_instance().setLevel('WARNING')
    try:
        if min(args.batch, *args.sizes, args.rounds) < 1 or args.warmup < 0:
            raise ValueError('--batch, --sizes and --rounds must be at least '
                             '1, --warmup at least 0')
        if args.threads:
            torch.set_num_threads(args.threads)
        cfg = load_config(args)
        find_hook(cfg)
        check_framework(cfg)
        report = DistillCost(
            Path(args.config).stem, args.batch, torch.get_num_threads(),
            args.rounds, args.clock)
        measure(report, cfg, args.sizes, args.warmup)
    except (FileNotFoundError, ImportError, KeyError, ValueError) as error:
        raise SystemExit(error.args[0]) from None
    print_cost(report)
    out_dir = Path(cfg.work_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    report.write_json(out_dir / 'distill_cost.json')
    print(f'written: {out_dir}/distill_cost.json')


if __name__ == '__main__':
    main()
