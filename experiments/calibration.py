"""Score of the calibrated network, and after a tenth of the training.

    python tools/calibration.py --page docs/calibration.md

For each task of the digits the ANN counterpart is trained once; then, for
each number of bits and levels, it is calibrated, tested, and trained for a
tenth of the iterations. What the json has already is not repeated.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmqsdt.checkpoints.atomic import write_atomically
from mmqsdt.cli.ending import ToolParser, command
from mmqsdt.models.counterpart import counterpart_config
from mmqsdt.utils.configs import find_config, parts
from mmqsdt.utils.frameworks import check_framework

from .markdown import add_page, write_table
from .seeds import METRICS, last_scores

TOOLS = Path(__file__).resolve().parents[1] / 'tools'
TASKS = dict(
    cls='cls/qsdt_digits', det='det/qsdt_maskrcnn_digits',
    seg='seg/qsdt_fpn_digits')
SETTINGS = tuple((bits, levels) for bits in (4, 8) for levels in (4, 8, 15))
# Of the training's length, and of its learning rate.
SHARE, RATE = 0.1, 0.25


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    add_runs(parser, 'calibration')
    return parser.parse_args()


def add_runs(parser: argparse.ArgumentParser, name: str) -> None:
    """Add what says which tasks run, and where all goes; see :class:`Runs`."""
    parser.add_argument(
        '--tasks', nargs='+', choices=TASKS, default=list(TASKS),
        help='default: all three')
    parser.add_argument(
        '--out', type=Path, default=f'docs/{name}.json',
        help='the figures; default: %(default)s')
    add_page(parser)
    parser.add_argument(
        '--work-dir', type=Path, default=f'work_dirs/{name}',
        help='of configs and trainings; default: %(default)s')


def with_setting(cfg: Config, bits: int | str | None, levels: int,
                 time_steps: int = 1) -> Config:
    """Set these weights, neurons and steps wherever the config has any."""
    cfg = deepcopy(cfg)
    for part in parts(cfg.model):
        kind = str(part.get('type'))
        if kind.startswith(('mmqsdt.QSD', 'mmqsdt.Spike')):
            part['weight_bits'] = bits
            part['neuron'] = dict(part.get('neuron') or dict(
                type='mmqsdt.IELIF'), levels=levels)
        if kind == 'mmqsdt.QSDTransformer':
            part['time_steps'] = time_steps
    return cfg


def shortened(cfg: Config) -> Config:
    """Shorten the config's schedule to a tenth, warm-up and decay included."""
    cfg = deepcopy(cfg)
    length = cfg.train_cfg.get('max_iters')
    if length is None:
        check_framework(cfg)
        init_default_scope(cfg.default_scope)
        loader = dict(cfg.train_dataloader, num_workers=0)
        length = cfg.train_cfg.max_epochs * len(
            Runner.build_dataloader(loader))
    length = max(2, round(SHARE * length))
    warm = length // 10
    cfg.train_cfg = dict(
        type='IterBasedTrainLoop', max_iters=length, val_interval=length)
    cfg.param_scheduler = [
        dict(type='CosineAnnealingLR', by_epoch=False, begin=warm,
             end=length)]
    if warm:
        cfg.param_scheduler.insert(0, dict(
            type='LinearLR', start_factor=0.01, by_epoch=False, end=warm))
    cfg.optim_wrapper.optimizer.lr *= RATE
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=length)
    cfg.default_hooks.logger.update(log_metric_by_epoch=False)
    cfg.log_processor = dict(cfg.get('log_processor') or {}, by_epoch=False)
    return cfg


def run_tool(name: str, log: Path, *args: str | Path) -> None:
    """Run a tool in a process of its own.

    Raises:
        RuntimeError: If it fails, with the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w') as file:
        done = subprocess.run(
            [sys.executable, TOOLS / f'{name}.py', *map(str, args)],
            stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        end = '\n'.join(log.read_text().splitlines()[-5:])
        raise RuntimeError(f'{name} failed; the end of {log}:\n{end}')


def tested_scores(work_dir: Path) -> dict[str, float]:
    """Return the scores of the latest test in a work dir."""
    latest = sorted(work_dir.glob('*/*.json'))[-1]
    found = json.loads(latest.read_text())
    return {key: found[key] for key in METRICS if key in found}


class Runs:
    """Scores by task and setting, kept in a json."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.scores = json.loads(out.read_text()) if out.exists() else {}

    def get(self, task: str, name: str, measure: Callable, *args) -> None:
        """Measure what is not known yet, and write it down."""
        known = self.scores.setdefault(task, {})
        if name not in known:
            known[name] = measure(*args)
            write_atomically(
                self.out, (json.dumps(self.scores, indent=1) + '\n').encode())
            print(f'{task} {name}: {known[name]}', flush=True)


def train(cfg: Config, config: Path, work_dir: Path,
          *options: str | Path) -> dict[str, float]:
    """Write a config, train it and return the scores."""
    config.parent.mkdir(parents=True, exist_ok=True)
    cfg.dump(config)
    run_tool('train', work_dir.with_suffix('.log'), config, '--work-dir',
             work_dir, *options)
    return last_scores(work_dir)


def train_ann(cfg: Config, folder: Path) -> dict[str, float]:
    """Train the counterpart, or resume; return its scores."""
    return train(counterpart_config(cfg), folder / 'ann.py', folder / 'ann',
                 '--resume')


def calibrated(cfg: Config, ann: Path, place: Path) -> dict[str, float]:
    """Calibrate and return the scores of the network."""
    place.mkdir(parents=True, exist_ok=True)
    config, start = place / 'config.py', place / 'calibrated.pth'
    cfg.dump(config)
    run_tool('calibrate', place / 'calibrate.log', config, ann, start)
    run_tool('test', place / 'test.log', config, start, '--work-dir',
             place / 'test')
    return tested_scores(place / 'test')


def trained(cfg: Config, ann: Path, place: Path) -> dict[str, float]:
    """Train for a tenth of the iterations from there; return the scores."""
    return train(shortened(cfg), place / 'short.py', place / 'train',
                 '--from-ann', ann)


def run_task(task: str, runs: Runs, folder: Path) -> None:
    """Run all of a task that is not known yet."""
    cfg = Config.fromfile(find_config(TASKS[task]))
    runs.get(task, 'ann', train_ann, cfg, folder)
    for bits, levels in SETTINGS:
        name = f'{bits} bits, D {levels}'
        args = (with_setting(cfg, bits, levels), folder / 'ann',
                folder / f'{bits}bit_{levels}')
        runs.get(task, name, calibrated, *args)
        runs.get(task, f'{name}, trained', trained, *args)


def table(scores: dict[str, dict[str, dict[str, float]]]) -> str:
    """Make the table, in Markdown: a line for each metric and setting."""
    lines = ['| score | weights | D | ANN | calibrated alone | after a tenth '
             'of the training |', '|---|---|---|---|---|---|']
    for task in (task for task in TASKS if task in scores):
        known = scores[task]
        for key in known['ann']:
            title, digits = METRICS[key]
            for bits, levels in SETTINGS:
                name = f'{bits} bits, D {levels}'
                cells = [
                    f'{known[column][key]:.{digits}f}' if column in known
                    else 'not run'
                    for column in ('ann', name, f'{name}, trained')]
                lines.append(' | '.join(
                    [f'| {title}', f'{bits} bits', str(levels), *cells])
                    + ' |')
    return '\n'.join(lines) + '\n'


@command
def main() -> None:
    args = parse_args()
    runs = Runs(args.out)
    for task in args.tasks:
        run_task(task, runs, args.work_dir / task)
    text = table(runs.scores)
    write_table(text, args.page or args.out.with_suffix('.md'),
                args.out.stem)
    print(text)
