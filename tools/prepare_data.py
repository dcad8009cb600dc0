"""Make a data set that needs no download.

    python tools/prepare_data.py digits [--out data/digits]
"""

import argparse

from mmqsdt.datasets import prepare_digits


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    digits = commands.add_parser(
        'digits',
        help='scanned digits: single ones for classification, scenes on '
        'photographs for detection and segmentation',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = digits.add_argument
    add('--out', default='data/digits', help='output folder')
    add('--image-size', type=int, default=160, help='side of a scene, pixels')
    add('--num-train', type=int, default=600, help='training scenes')
    add('--num-val', type=int, default=100, help='validation scenes')
    add('--seed', type=int, default=0, help='random seed')
    add('--force', action='store_true', help='replace digits already there')
    return parser.parse_args()


def main() -> None:
    """Make the data set and say where it is."""
    args = parse_args()
    try:
        summary = prepare_digits(args.out, args.image_size, args.num_train,
                                 args.num_val, args.seed, args.force)
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None
    if summary['written']:
        print(f'Digits written to {args.out}: {summary["files"]} files')
    else:
        print(f'Digits are complete in {args.out} and were kept '
              f'({summary["files"]} files); --force makes them again')
    for split, counts in summary['splits'].items():
        print(f'  {split}: {counts["single_digits"]} single digits, '
              f'{counts["scenes"]} scenes with {counts["scene_digits"]} '
              'digits')


if __name__ == '__main__':
    main()
