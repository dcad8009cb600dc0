"""Firing rates, operations and energy of a trained model, layer by layer.

    python tools/energy.py CONFIG CHECKPOINT [--data val] [--images 32]

What an operation costs comes from the config, if it says so:
energy_costs = dict(mac_pj=4.6, ac_pj=0.9, source='...'); see
mmqsdt.measure.costs for all of them
"""

import argparse
from dataclasses import fields
from pathlib import Path

from mmengine.config import Config

from ..data.sources import check_data
from ..measure.energy import EnergyCosts, measure_energy
from ..measure.energy_plot import plot_energy
from ..measure.energy_table import print_report
from ..measure.regions import fix_regions
from ..utils.build import load_batches
from ..utils.frameworks import check_framework
from .common import add_overrides, load_config, load_model
from .ending import ToolParser, command


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        'checkpoint', help='path of the checkpoint or of packed weights, or '
        'a work dir (its latest)')
    parser.add_argument(
        '--data', choices=('test', 'val'), default='test',
        help='data loader of the config; default: test')
    parser.add_argument(
        '--images', type=int, default=32, help='how many; default: 32')
    parser.add_argument(
        '--layers', action='store_true',
        help='print the table of layers too; energy.csv always has it')
    parser.add_argument(
        '--skip-zeros', action='store_true',
        help='leave products with a zero code or a zero activation out of '
        'the integer rows, of the model and of the ANN counterparts')
    parser.add_argument(
        '--regions', type=int, metavar='K',
        help='of a two-stage detector: the best K proposals of an image, '
        'whatever their overlap, so that models compare; 0: those that the '
        'model finds; default: max_per_img of the config')
    parser.add_argument(
        '--out', '--work-dir', dest='work_dir',
        help='where energy.json, .csv and .png go; '
        'default: work_dirs/<config name>')
    add_overrides(parser)
    return parser.parse_args()


def energy_costs(cfg: Config) -> EnergyCosts:
    """Of the config, or the field's.

    Raises:
        ValueError: If the entry is not understood.
    """
    entry = cfg.get('energy_costs', {})
    try:
        return EnergyCosts(**entry)
    except TypeError:
        names = ', '.join(f.name for f in fields(EnergyCosts))
        raise ValueError('energy_costs must be dict(mac_pj=.., ac_pj=..), '
                         f'numbers in pJ, got {entry}; it may have {names}'
                         ) from None


@command
def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    costs = energy_costs(cfg)
    regions = (0, 0) if args.regions == 0 else fix_regions(cfg, args.regions)
    check_framework(cfg)
    check_data(cfg, (args.data, ))
    model, _ = load_model(cfg, args.checkpoint, args.data)
    batches = load_batches(cfg, args.data, args.images)
    out_dir = Path(cfg.work_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    report = measure_energy(model, batches, costs, args.skip_zeros)
    print_report(report, args.layers)
    if any(regions):
        print('an image has the best {} proposals and {} detections, '
              'whatever their overlap; --regions 0 takes those found'
              .format(*regions))
    report.write_json(out_dir / 'energy.json')
    report.write_csv(out_dir / 'energy.csv')
    plot_energy(report, out_dir / 'energy.png')
    print(f'written: {out_dir}/energy.json, .csv, .png')
