"""Make a data set that needs no download.

    python tools/prepare_data.py digits [--out data/digits]
"""

import argparse

from mmqsdt.datasets import prepare_digits


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    digits = commands.add_parser(
        'digits',
        help='scanned digits: single ones for classification, scenes on '
        'photographs for detection and segmentation',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    digits.add_argument('--out', default='data/digits', help='output folder')
    digits.add_argument(
        '--image-size', type=int, default=160, help='side of a scene, pixels')
    digits.add_argument(
        '--train', type=int, default=600, help='number of training scenes')
    digits.add_argument(
        '--val', type=int, default=100, help='number of validation scenes')
    digits.add_argument('--seed', type=int, default=0, help='random seed')
    digits.add_argument(
        '--force', action='store_true', help='replace digits already there')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        summary = prepare_digits(args.out, args.image_size, args.train,
                                 args.val, args.seed, args.force)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    state = 'written to' if summary['written'] else 'already complete in'
    print(f'Digits {state} {args.out}: {summary["files"]} files')
    for split, counts in summary['splits'].items():
        print(f'  {split}: {counts["single_digits"]} single digits, '
              f'{counts["scenes"]} scenes with '
              f'{sum(counts["scene_digits"].values())} digits')


if __name__ == '__main__':
    main()
