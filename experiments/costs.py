"""What D, T and the bits of a weight cost: score, spikes, bytes, time.

    python tools/costs.py --page docs/costs.md

For each task of the digits and each setting a training, its test score, and
what the trained network takes. What the json has already is not repeated;
what it lacks is marked in the table.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from mmqsdt.checkpoints.fit import build_trained
from mmqsdt.checkpoints.resume import find_checkpoint
from mmqsdt.cli.ending import ToolParser, command
from mmqsdt.deploy import to_form
from mmqsdt.layers.lsq import width_name
from mmqsdt.measure.energy import measure_energy
from mmqsdt.measure.paper_table import paper_row
from mmqsdt.measure.regions import fix_regions
from mmqsdt.utils.build import load_batches
from mmqsdt.utils.configs import find_config
from mmqsdt.utils.frameworks import check_framework
from mmqsdt.utils.tables import to_markdown

from .benchmark import alternate
from .calibration import TASKS, Runs, add_runs, train, with_setting
from .markdown import write_table
from .seeds import METRICS


class Setting(NamedTuple):
    """Bits of all weights, D of all neurons, T of the backbone."""
    bits: int | str | None = 4
    levels: int = 4
    steps: int = 1

    def __str__(self) -> str:
        return f'{width_name(self.bits)}, T x D = {self.steps} x {self.levels}'


# The first is the demo; the others change one thing of it.
SETTINGS = (
    Setting(), Setting(8), Setting(2), Setting('ternary'), Setting(1),
    Setting(levels=1), Setting(levels=2), Setting(levels=8),
    Setting(levels=1, steps=4), Setting(steps=2))
ROUNDS = 5


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    add_runs(parser, 'costs')
    parser.add_argument(
        '--settings', nargs='+', type=int, choices=range(len(SETTINGS)),
        default=list(range(len(SETTINGS))),
        help='which of ' + '; '.join(
            f'{i}: {each}' for i, each in enumerate(SETTINGS)))
    parser.add_argument(
        '--epochs', type=int, help='of a trial: fewer than the config has; '
        'for another --out than that of the page')
    parser.add_argument(
        '--table', action='store_true',
        help='write the table of what there is, and run nothing')
    return parser.parse_args()


def shortened(cfg: Config, epochs: int | None) -> Config:
    """Give the config fewer epochs, if it is a trial."""
    if epochs:
        cfg.train_cfg.max_epochs = cfg.train_cfg.val_interval = epochs
    return cfg


def run(cfg: Config, place: Path) -> dict[str, float]:
    """Train, test and measure one setting."""
    config = place / 'config.py'
    return train(cfg, config, place / 'train', '--resume') | measure(
        Config.fromfile(config), find_checkpoint(str(place / 'train')))


def measure(cfg: Config, checkpoint: str) -> dict[str, float]:
    """Spikes, bytes, energy and time of a trained model."""
    check_framework(cfg)
    fix_regions(cfg)
    model = build_trained(cfg, checkpoint)
    batches = load_batches(cfg, 'test', 16)
    row = paper_row('', model, measure_energy(model, batches))
    return dict(
        firing_rate=row.firing_rate, sops=row.sops, bytes=row.bytes,
        equivalents=row.equivalents, energy=row.energy, counted=row.counted,
        seconds=prediction_seconds(model, batches[0]))


@torch.no_grad()
def prediction_seconds(model: nn.Module, batch: dict) -> float:
    """Measure one image on integer kernels, one thread; a median."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    batch = {name: values[:1] for name, values in batch.items()}
    form = to_form(model, 'fast', 'thermometer').eval()
    seconds = alternate(
        dict(fast=lambda: form.test_step(deepcopy(batch))), ROUNDS, 1, 'cpu')
    torch.set_num_threads(threads)
    return float(np.median(seconds['fast']))


# Column of the table -> how a figure becomes text.
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = dict(
    firing_rate=('firing rate, %', lambda x: f'{100 * x:.1f}'),
    sops=('SOPs, M', lambda x: f'{x / 1e6:.2f}'),
    bytes=('bytes on disk', '{:,.0f}'.format),
    equivalents=('32-bit equivalents, M', lambda x: f'{x / 1e6:.3f}'),
    energy=('energy by the formula, mJ', '{:.3g}'.format),
    counted=('counted, with memory, mJ', '{:.3g}'.format),
    seconds=('time of an image, ms', lambda x: f'{1e3 * x:.1f}'))


def table(found: dict[str, dict[str, dict[str, float]]],
          tasks: tuple[str, ...] = tuple(TASKS)) -> str:
    """In Markdown: a line for each task and setting."""
    head = ['task', 'weights', 'T x D', 'score', *(
        title for title, _ in COLUMNS.values())]
    lines = []
    for task in tasks:
        for setting in SETTINGS:
            known = found.get(task, {}).get(str(setting))
            cells = ['not run'] * (1 + len(COLUMNS)) if known is None else [
                ', '.join(f'{title} {known[key]:.{digits}f}'
                          for key, (title, digits) in METRICS.items()
                          if key in known),
                *(text(known[key]) for key, (_, text) in COLUMNS.items())]
            lines.append([task, width_name(setting.bits),
                          f'{setting.steps} x {setting.levels}', *cells])
    return to_markdown(head, lines)


@command
def main() -> None:
    args = parse_args()
    if args.epochs and args.out == Path('docs/costs.json'):
        raise ValueError('expected another --out for a trial of '
                         f'{args.epochs} epochs: the page has whole trainings')
    runs = Runs(args.out)
    write = partial(write_table, path=args.page or args.out.with_suffix('.md'),
                    name=args.out.stem)
    for task in [] if args.table else args.tasks:
        cfg = Config.fromfile(find_config(TASKS[task]))
        check_framework(cfg)
        for i in args.settings:
            setting = SETTINGS[i]
            changed = shortened(with_setting(cfg, *setting), args.epochs)
            runs.get(task, str(setting), run, changed,
                     args.work_dir / task / str(i))
            write(table(runs.scores))
    write(table(runs.scores))


if __name__ == '__main__':
    main()
