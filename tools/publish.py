"""Make a trained model ready for a hub: weights, config, model card.

    python tools/publish.py CONFIG CHECKPOINT --out DIR [--scores FILE.json]
"""

import argparse
from pathlib import Path

import mmqsdt  # noqa: F401  before any framework: brings mmcv's ops
from mmengine.config import DictAction

from mmqsdt.launch import check_framework, find_checkpoint, load_config
from mmqsdt.publish import publish


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config, or its name')
    parser.add_argument(
        'checkpoint', help='path of the checkpoint, or a work dir: its last')
    parser.add_argument('--out', required=True, help='folder to write')
    parser.add_argument(
        '--name', help='of the model; default: that of the config')
    parser.add_argument(
        '--scores', help='JSON of scores, as tools/test.py leaves it in its '
        'work dir')
    parser.add_argument(
        '--license', default='mit', help='of the weights; default: mit')
    parser.add_argument(
        '--packed', action='store_true',
        help='store the weights at their true width')
    parser.add_argument(
        '--force', action='store_true', help='replace a model card')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction,
        help='override config entries: key=value')
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        cfg = load_config(args)
        check_framework(cfg)
        done = publish(
            cfg, find_checkpoint(args.checkpoint), args.out,
            args.name or Path(args.config).stem, args.license, args.scores,
            args.packed, args.force)
    except KeyError as error:
        raise SystemExit(error.args[0]) from None
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(f'written: {done.weights}, {done.before:,} -> {done.after:,} bytes')
    print(f'sha256:  {done.sha256}')
    print(f'card:    {done.card}')


if __name__ == '__main__':
    main()
