"""How fast a model is, against its ANN counterpart, in one process.

    python tools/benchmark.py configs/cls/qsdt_imagenet.py

Every form of the model and every way to run the counterpart take turns, so
that whatever else the machine does falls upon all of them.
"""

import argparse
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from mmqsdt.checkpoints.fit import load_for_test
from mmqsdt.checkpoints.resume import find_checkpoint
from mmqsdt.cli.common import add_overrides, load_config
from mmqsdt.cli.ending import ToolParser, command
from mmqsdt.utils.frameworks import check_framework

from ..markdown import write_table
from . import (
    CLOCKS,
    TITLES,
    Benchmark,
    Models,
    check_loading,
    measure_inference,
    measure_loading,
    measure_memory,
    measure_training,
    plot_benchmark,
    print_benchmark,
    profile_inference,
    profile_training,
    to_markdown,
)


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        'checkpoint', nargs='?', help='checkpoint, packed weights or work '
        'dir; without it weights are random, which changes no time but that '
        'of a detector, who then has other regions to look at')
    parser.add_argument(
        '--runners', nargs='+', choices=TITLES, metavar='RUNNER',
        default=list(TITLES), help=f'of {", ".join(TITLES)}; default: all. '
        'Compiled and spiking ones are slow: in the first case alone')
    parser.add_argument(
        '--batches', nargs='+', type=int, default=[1, 4],
        help='default: 1 4')
    parser.add_argument(
        '--sizes', nargs='+', type=int, default=[224],
        help='sides of the images; the first with every batch size, all with '
        'the first batch size; default: 224')
    parser.add_argument(
        '--rounds', type=int, default=25, help='default: 25')
    parser.add_argument(
        '--warmup', type=int, default=3, help='default: 3')
    parser.add_argument(
        '--threads', type=int, help="default: PyTorch's")
    parser.add_argument(
        '--clock', choices=CLOCKS, default='wall',
        help='wall, or cpu: processor time, all threads added up, for a busy '
        'machine and --threads 1; default: wall')
    parser.add_argument(
        '--train', type=int, metavar='BATCH',
        help='measure a training step of this batch size too')
    parser.add_argument(
        '--profile', action='store_true',
        help='say by operation where the time of a prediction goes, and with '
        '--train that of a step')
    parser.add_argument(
        '--memory', action='store_true',
        help='measure the memory of predictions too, at every size')
    parser.add_argument(
        '--loading', action='store_true',
        help='measure how fast the training data come too, on scenes of '
        'digits of about the size of the real images')
    parser.add_argument(
        '--work-dir', help='where benchmark.json and .png go; '
        'default: work_dirs/<config name>')
    parser.add_argument(
        '--page', type=Path, help='.md file to put the tables into, between '
        'its marks of the name of the config')
    add_overrides(parser)
    return parser.parse_args()


@command
def main() -> None:
    args = parse_args()
    MMLogger.get_current_instance().setLevel('WARNING')
    if min(*args.batches, *args.sizes, args.rounds) < 1:
        raise ValueError('--batches, --sizes and --rounds must be at '
                         'least 1')
    if args.threads:
        torch.set_num_threads(args.threads)
    cfg = load_config(args)
    check_framework(cfg)
    if args.loading:
        check_loading(cfg)
    weights = None
    if args.checkpoint:
        checkpoint = find_checkpoint(args.checkpoint)
        weights = lambda model: load_for_test(model, checkpoint)  # noqa: E731
    models = Models(cfg, args.runners, weights)
    report = Benchmark(
        Path(args.config).stem, torch.get_num_threads(), args.rounds,
        args.clock)
    measure_inference(report, models, args.batches, args.sizes, args.warmup)
    if args.profile:
        profile_inference(report, models, args.batches[0], args.sizes[0])
    if args.memory:
        measure_memory(report, cfg, args.batches[0], args.sizes)
    if args.train:
        measure_training(report, cfg, args.train, args.sizes[0], args.warmup)
    if args.train and args.profile:
        profile_training(report, cfg, args.train, args.sizes[0])
    if args.loading:
        measure_loading(report, cfg)
    print_benchmark(report)
    out_dir = Path(cfg.work_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    report.write_json(out_dir / 'benchmark.json')
    plot_benchmark(report, out_dir / 'benchmark.png')
    print(f'written: {out_dir}/benchmark.json, .png')
    if args.page:
        write_table(to_markdown(report), args.page, report.config)


if __name__ == '__main__':
    main()
