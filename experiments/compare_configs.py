"""Train configs over several seeds and compare their last scores.

    python tools/compare_configs.py CONFIG CONFIG... --out work_dirs/mine.json

Writes the scores and, beside them, a table as .md. Runs that the json has
already are not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from mmqsdt.cli.ending import ToolParser, command
from mmqsdt.utils.configs import find_config

from .markdown import add_page, write_table
from .seeds import last_scores, seeds_table

TRAIN = Path(__file__).resolve().parents[1] / 'tools/train.py'


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        'configs', nargs='+', help='the others are compared with the first')
    parser.add_argument(
        '--seeds', type=int, default=3, help='how many; default: 3')
    parser.add_argument(
        '--out', type=Path, required=True, help='the scores: a .json')
    add_page(parser)
    parser.add_argument(
        '--work-dir', type=Path, default='work_dirs/compare',
        help='of the trainings; default: work_dirs/compare')
    parser.add_argument(
        '--jobs', type=int, default=1,
        help='trainings at a time; each has its share of the cores. '
        'Default: 1')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
        help='for every training, as of tools/train.py')
    args = parser.parse_args()
    if args.out.suffix != '.json':
        parser.error(f'--out must end in .json, got {args.out}')
    if min(args.seeds, args.jobs) < 1:
        parser.error('--seeds and --jobs must be at least 1, got '
                     f'{args.seeds} and {args.jobs}')
    return args


def train(config: str, seed: int, work_dir: Path, options: list[str],
          jobs: int) -> dict[str, float]:
    """Train in a process of its own and read its last scores."""
    work_dir.mkdir(parents=True, exist_ok=True)
    log = work_dir / 'train.log'
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = dict(os.environ) if jobs == 1 else dict(
        os.environ, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    with log.open('w') as file:
        done = subprocess.run(
            [sys.executable, str(TRAIN), config, '--work-dir', str(work_dir),
             '--cfg-options', f'randomness.seed={seed}', *options],
            stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        end = '\n'.join(log.read_text().splitlines()[-5:])
        raise RuntimeError(f'training {config} failed; the end of {log}:\n'
                           f'{end}')
    return last_scores(work_dir)


def load_runs(path: Path, options: list[str]) -> dict:
    """Return the results of earlier runs.

    Raises:
        ValueError: If that was with other options.
    """
    if not path.exists():
        return dict(options=options, runs={})
    content = json.loads(path.read_text())
    if content['options'] != options:
        raise ValueError(f'{path} holds runs with --cfg-options '
                         f'{content["options"]}; name another file with --out')
    return content


def write_runs(path: Path, content: dict) -> None:
    """Write the runs, their seeds in order."""
    for name, runs in content['runs'].items():
        content['runs'][name] = {
            seed: runs[seed] for seed in sorted(runs, key=int)}
    path.write_text(json.dumps(content, indent=1) + '\n')


def run_all(args: argparse.Namespace) -> str:
    configs = {Path(config).stem: str(find_config(config))
               for config in args.configs}
    content = load_runs(args.out, args.cfg_options)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in configs:
        content['runs'].setdefault(name, {})
    error = None
    with ThreadPoolExecutor(args.jobs) as pool:
        trainings = {
            pool.submit(train, config, seed,
                        args.work_dir / f'{name}_{seed}', args.cfg_options,
                        args.jobs): (name, seed)
            for seed in range(args.seeds) for name, config in configs.items()
            if str(seed) not in content['runs'][name]
        }
        for done in as_completed(trainings):
            if done.cancelled():
                continue
            if done.exception():  # what runs already may end, and counts
                error = error or done.exception()
                for each in trainings:
                    each.cancel()
                continue
            name, seed = trainings[done]
            content['runs'][name][str(seed)] = done.result()
            write_runs(args.out, content)
            print(f'{name}, seed {seed}: {done.result()}', flush=True)
    if error:
        raise error
    return seeds_table({name: content['runs'][name] for name in configs})


@command
def main() -> None:
    args = parse_args()
    table = run_all(args)
    write_table(table, args.page or args.out.with_suffix('.md'),
                args.out.stem)
    print(table)


if __name__ == '__main__':
    main()
