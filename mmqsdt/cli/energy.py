"""Firing rates, operations and energy of a trained model, layer by layer.

    python tools/energy.py CONFIG CHECKPOINT [--data val] [--images 32]

What an operation costs comes from the config, if it says so:
energy_costs = dict(mac_pj=4.6, ac_pj=0.9)
"""

import argparse
from pathlib import Path

from mmengine.config import Config, DictAction

from ..checkpoints.fit import load_for_test
from ..checkpoints.resume import find_checkpoint
from ..data.questions import ask
from ..data.sources import check_data
from ..measure.energy import EnergyCosts, measure_energy
from ..measure.energy_plot import plot_energy
from ..measure.energy_table import print_report
from ..utils.build import build_model, load_batches
from ..utils.frameworks import check_framework
from .common import load_config
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
        '--out', '--work-dir', dest='work_dir',
        help='where energy.json, .csv and .png go; '
        'default: work_dirs/<config name>')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction,
        help='override config entries: key=value')
    parser.set_defaults(launcher='none', local_rank=0)
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
        raise ValueError('energy_costs must be dict(mac_pj=.., ac_pj=..), '
                         f'numbers in pJ, got {entry}') from None


@command
def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    costs = energy_costs(cfg)
    check_framework(cfg)
    check_data(cfg, (args.data, ))
    checkpoint = find_checkpoint(args.checkpoint)
    ask(cfg, (args.data, ), checkpoint)
    model = build_model(cfg)
    load_for_test(model, checkpoint)
    batches = load_batches(cfg, args.data, args.images)
    out_dir = Path(cfg.work_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    report = measure_energy(model, batches, costs)
    print_report(report)
    report.write_json(out_dir / 'energy.json')
    report.write_csv(out_dir / 'energy.csv')
    plot_energy(report, out_dir / 'energy.png')
    print(f'written: {out_dir}/energy.json, .csv, .png')
