"""Put a QSD-Transformer into a stock config of MMDetection or its sisters.

    python tools/swap.py mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py \\
        --arch 15m --out my_dino.py

Writes a child config in which neck and heads fit the new backbone.
"""

import argparse

from ..engine.swap import swap_config
from ..models.backbones import ARCHS
from ..models.channels import fields, maps_of
from ..utils.configs import tool_command
from .ending import ToolParser, command


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        'config', help='the stock config: mmdet::..., mmseg::..., '
        'mmpretrain::..., or a path')
    parser.add_argument(
        '--arch', choices=ARCHS, default='15m',
        help='size of the backbone; default: %(default)s')
    parser.add_argument('--out', required=True, help='the config to write')
    parser.add_argument(
        '--weight-bits', type=int, choices=(2, 3, 4, 8), default=4,
        help="of the backbone's weights; default: %(default)s")
    parser.add_argument(
        '--ann', action='store_true',
        help='the ANN counterpart: float weights and ReLU')
    parser.add_argument(
        '--force', action='store_true', help='replace a file that is there')
    return parser.parse_args()


@command
def main() -> None:
    args = parse_args()
    cfg = swap_config(args.config, args.out, args.arch,
                      None if args.ann else args.weight_bits, args.force)
    for field in fields(cfg.model, maps_of(cfg.model.backbone)):
        print(f'  model.{field.name} = {field.expected}')
    train = tool_command('train')
    print(f'written: {args.out}; the network was built and ran\n'
          f'  try it: {train} {args.out} --smoke\n'
          f'  train:  {train} {args.out}')
