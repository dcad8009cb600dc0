"""Test a checkpoint: top-1, mAP or mIoU, as the config says.

    python tools/test.py configs/det/qsdt_maskrcnn_coco.py CHECKPOINT
    python tools/test.py CONFIG CHECKPOINT --inference spikes
"""

import argparse

from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

from ..checkpoints.fit import load_for_test
from ..checkpoints.read import reading_once
from ..checkpoints.resume import find_checkpoint
from ..data.check import refuse_faults
from ..data.questions import ask
from ..data.skip import watch_labels
from ..data.sources import check_data
from ..deploy import ENCODINGS, FORMS, to_form
from ..engine.distributed import (
    ends_together,
    join_processes,
    name_lost_workers,
)
from ..engine.quiet import build_runner, quiet
from ..utils.frameworks import check_framework
from .common import (
    add_common_arguments,
    draw_predictions,
    load_config,
    use_double,
    use_tta,
)
from .ending import ToolParser, command


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        'checkpoint', help='path of the checkpoint or of packed weights, or '
        'a work dir (its latest)')
    parser.add_argument(
        '--inference', choices=FORMS, default='float',
        help='form of the model: float as trained; integer codes and counts; '
        'fast, the same on integer kernels of the CPU; or binary spikes. '
        'Default: float')
    parser.add_argument(
        '--encoding', choices=ENCODINGS,
        help='how --inference spikes carries a count; '
        f'default: {ENCODINGS[0]}')
    parser.add_argument(
        '--double', action='store_true',
        help='compute in float64, where no rounding tells the forms apart')
    parser.add_argument('--out', help='write all predictions to this .pkl')
    parser.add_argument('--show-dir', help='draw predictions into this folder')
    parser.add_argument(
        '--show-number', type=int, help='draw only this many')
    parser.add_argument(
        '--show', action='store_true', help='draw predictions in windows')
    parser.add_argument(
        '--tta', action='store_true',
        help='test time augmentation, as the config describes it')
    add_common_arguments(parser)
    return parser.parse_args()


def convert(runner: Runner, form: str, encoding: str) -> None:
    model = runner.model
    if is_model_wrapper(model):  # DDP
        model.module = to_form(model.module, form, encoding)
    else:
        runner.model = to_form(model, form, encoding)


@record  # torchrun then shows the first error
@command
def main() -> None:
    args = parse_args()
    if args.encoding and args.inference != 'spikes':
        raise ValueError('--encoding is of --inference spikes, got '
                         f'--inference {args.inference}')
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out must end in .pkl, got {args.out}')
    with quiet(args.verbose):
        test(args)


def test(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    check_framework(cfg)
    if args.tta:
        use_tta(cfg)
    join_processes(cfg)
    with reading_once():
        with ends_together():
            check_data(cfg, ('test', ))
            checkpoint = find_checkpoint(args.checkpoint)
            ask(cfg, ('test', ), checkpoint)
            refuse_faults(cfg, ('test', ))
            watch_labels(cfg, 'test')
        if args.show or args.show_dir:
            draw_predictions(cfg, args.show_dir, args.show_number, args.show)
        # Else Runner.test would put these weights over those named here.
        cfg.load_from, cfg.resume = None, False
        runner = build_runner(cfg, args.verbose)
        load_for_test(runner.model, checkpoint)
    if args.double:
        use_double(runner.model)
    convert(runner, args.inference, args.encoding or ENCODINGS[0])
    if args.out:
        runner.test_evaluator.metrics.append(DumpResults(args.out))
    with name_lost_workers():
        scores = runner.test()
    if not is_main_process():
        return
    for name, score in scores.items():
        print(f'{name}: {score:.4f}')
    print(f'checkpoint: {checkpoint}')
    print(f'inference:  {args.inference}')
    if args.show_dir:
        print(f'pictures:   {args.show_dir}')
