"""Check on a GPU all that is tested on a CPU, and time it.

    make gpu-check
    python -m experiments.gpu_check --page docs/performance.md

Without a GPU it says so, and ends well.
"""

import argparse
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from ..markdown import write_table
from .checks import SMALL, Setting, run_checks
from .table import measure, to_table


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--rounds', type=int, default=10, help='timed calls; default: 10')
    parser.add_argument(
        '--batch', type=int, default=4,
        help='images of a training step; default: 4')
    parser.add_argument(
        '--size', type=int, default=512, help='of the images; default: 512')
    parser.add_argument(
        '--page', type=Path, help='.md file to put the table into')
    # To try out this tool itself where there is no GPU: small models.
    parser.add_argument(
        '--device', default='cuda', help=argparse.SUPPRESS)
    parser.add_argument('--backend', default='inductor',
                        help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0 if all held, or there is no GPU."""
    args = parse_args(arguments)
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        print('gpu-check: no GPU that PyTorch can use here; nothing was run')
        return 0
    MMLogger.get_current_instance().setLevel('ERROR')
    setting = Setting(
        args.device, args.backend, size=args.size, batch=args.batch,
        rounds=args.rounds,
        **({} if args.device.startswith('cuda') else dict(arch=SMALL)))
    found = run_checks(setting)
    table = to_table(setting, measure(setting))
    print(table)
    failed = sum(result == 'FAILED' for result, _ in found.values())
    if args.page:
        write_table(table, args.page, 'gpu-check')
    print(f'{len(found) - failed} of {len(found)} checks held')
    return int(failed > 0)


if __name__ == '__main__':
    raise SystemExit(main())
