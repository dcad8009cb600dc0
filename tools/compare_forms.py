"""A trained model in every form: score, flips, time and bytes, as a table.

    python tools/compare_forms.py CONFIG CHECKPOINT [--page docs/spikes.md]
"""

import argparse
from pathlib import Path

import mmqsdt  # noqa: F401  before any framework: brings mmcv's ops
from mmengine.logging import MMLogger

from mmqsdt.analysis.form_scores import forms_table, measure_forms
from mmqsdt.analysis.markdown import write_table
from mmqsdt.launch import (add_common_arguments, check_data, check_framework,
                           find_checkpoint, load_config)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='checkpoint, packed weights or '
                        'work dir')
    parser.add_argument(
        '--images', type=int, default=4,
        help='test images to compare every spike on; default: 4')
    parser.add_argument(
        '--double', action='store_true', help='test in float64 too')
    parser.add_argument(
        '--page', type=Path, help='.md file to put the table into, between '
        'its marks of the name of the config')
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        if args.images < 1:
            raise ValueError(f'--images must be at least 1, got {args.images}')
        cfg = load_config(args)
        check_framework(cfg)
        check_data(cfg, ('test', ))
        checkpoint = find_checkpoint(args.checkpoint)
        cfg.load_from, cfg.resume = None, False
        cfg.work_dir = str(Path(cfg.work_dir, 'forms'))
        MMLogger.get_current_instance().setLevel('WARNING')
        found = measure_forms(cfg, checkpoint, args.images, args.double)
    except (FileNotFoundError, ImportError, KeyError, ValueError) as error:
        raise SystemExit(error.args[0]) from None
    table = forms_table(found, args.images)
    if args.page:
        write_table(table, args.page, Path(args.config).stem)
    print(table)


if __name__ == '__main__':
    main()
