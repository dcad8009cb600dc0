"""Pictures of what a trained model does.

    python tools/visualize.py entropy CONFIG CHECKPOINT \\
        [--compare CONFIG CHECKPOINT] [--teacher CONFIG CHECKPOINT]
"""

import argparse
from pathlib import Path

import mmqsdt  # noqa: F401  before any framework: brings mmcv's ops
from mmengine.config import Config, DictAction
from torch import nn

from mmqsdt.analysis.entropy import spike_entropy, write_json
from mmqsdt.analysis.entropy_plot import plot_entropy
from mmqsdt.analysis.entropy_table import print_entropy
from mmqsdt.deploy import build_model, load_batches, load_weights
from mmqsdt.launch import (check_data, check_framework, find_checkpoint,
                           load_config)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    entropy = commands.add_parser(
        'entropy', help='potentials, spikes and their entropy in q, k, v')
    entropy.set_defaults(run=draw_entropy, launcher='none', local_rank=0)
    pair = dict(nargs=2, metavar=('CONFIG', 'CHECKPOINT'))
    entropy.add_argument('config', help='path of the config')
    entropy.add_argument(
        'checkpoint', help='path of the checkpoint, or a work dir: its last')
    entropy.add_argument(
        '--compare', action='append', default=[], **pair,
        help='another model, drawn beside it on the same images; repeatable')
    entropy.add_argument(
        '--names', nargs='+', help='of the models in the picture; default: '
        'the names of their configs')
    entropy.add_argument(
        '--teacher', **pair, help='measure the FGD distance to this model')
    entropy.add_argument(
        '--data', choices=('test', 'val'), default='test',
        help='data loader of the first config; default: test')
    entropy.add_argument(
        '--images', type=int, default=64, help='how many; default: 64')
    entropy.add_argument(
        '--work-dir', help='where entropy.json and .png go; '
        'default: work_dirs/<config name>')
    entropy.add_argument(
        '--cfg-options', nargs='+', action=DictAction,
        help='override entries of the first config: key=value')
    return parser.parse_args()


def load_model(cfg: Config, checkpoint: str) -> nn.Module:
    """The trained model of a config, in eval mode."""
    check_framework(cfg)
    model = build_model(cfg)
    load_weights(model, find_checkpoint(checkpoint))
    return model


def other_config(path: str) -> Config:
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config at {path}')
    return Config.fromfile(path)


def draw_entropy(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    check_framework(cfg)
    check_data(cfg, (args.data, ))
    configs = [args.config, *(config for config, _ in args.compare)]
    names = args.names or [Path(config).stem for config in configs]
    if len(names) != len(configs) or len(set(names)) != len(names):
        raise ValueError(f'--names must give {len(configs)} different names '
                         f'for the models, got {names}')
    models = [load_model(cfg, args.checkpoint)]
    models += [load_model(other_config(c), k) for c, k in args.compare]
    teacher = args.teacher and load_model(
        other_config(args.teacher[0]), args.teacher[1])
    batches = load_batches(cfg, args.data, args.images)
    reports = {
        name: spike_entropy(model, batches, teacher)
        for name, model in zip(names, models)
    }
    print_entropy(reports)
    out_dir = Path(cfg.work_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_json(reports, out_dir / 'entropy.json')
    plot_entropy(reports, out_dir / 'entropy.png')
    print(f'written: {out_dir}/entropy.json, .png')


def main() -> None:
    args = parse_args()
    try:
        args.run(args)
    except (FileNotFoundError, ImportError, KeyError, ValueError) as error:
        raise SystemExit(error.args[0]) from None


if __name__ == '__main__':
    main()
