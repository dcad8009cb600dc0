"""The table of a paper, of your own runs, in one go.

    python tools/paper.py CONFIG CHECKPOINT [CONFIG CHECKPOINT ...] [--latex]

Parameters, bytes, T x D, firing rate, SOPs, energy by the published formula
and the row to quote, score. Several runs are several rows; of a detector the
energies are of the best proposals, as many as the config names.
"""

import argparse
from pathlib import Path

from ..checkpoints.atomic import write_text
from ..checkpoints.fit import build_trained
from ..checkpoints.resume import find_checkpoint
from ..data.questions import ask
from ..data.sources import check_data
from ..measure.energy import measure_energy
from ..measure.energy_table import notes
from ..measure.paper_table import (
    PaperRow,
    paper_row,
    to_latex,
    to_markdown,
)
from ..measure.regions import fix_regions
from ..measure.score import measure_score
from ..utils.build import load_batches
from ..utils.frameworks import check_framework
from .common import add_overrides, load_config
from .ending import ToolParser, command
from .energy import energy_costs


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        'runs', nargs='+', metavar='CONFIG CHECKPOINT',
        help='paths of a config and of its checkpoint, packed weights or '
        'work dir; as many pairs as the table shall have rows')
    parser.add_argument(
        '--latex', action='store_true',
        help='a tabular with booktabs, in place of Markdown')
    parser.add_argument(
        '--images', type=int, default=32,
        help='test images for rates and energy; default: 32')
    parser.add_argument(
        '--no-score', dest='score', action='store_false',
        help='leave the score out, which takes all of the test data')
    parser.add_argument('--out', help='write the table to this file as well')
    add_overrides(parser, 'all the configs')
    return parser.parse_args()


@command
def main() -> None:
    args = parse_args()
    if len(args.runs) % 2:
        raise ValueError('expected pairs of a config and a checkpoint, got '
                         f'{len(args.runs)} paths: {" ".join(args.runs)}')
    pairs = list(zip(args.runs[::2], args.runs[1::2]))
    # All that can be known to fail, before the first takes its time.
    runs = [prepare(args, *pair) for pair in pairs]
    rows, last = [], ''
    for cfg, checkpoint in runs:
        row, last = measure(cfg, checkpoint, args)
        rows.append(row)
    table = (to_latex if args.latex else to_markdown)(rows)
    print(table)
    print(f'\n{last}')
    if args.out:
        write_text(args.out, f'{table}\n')
        print(f'written: {args.out}')


def prepare(args: argparse.Namespace, config: str,
            checkpoint: str) -> tuple:
    """Return the config and the path of the checkpoint, both checked."""
    args.config = config
    cfg = load_config(args)
    energy_costs(cfg)
    check_framework(cfg)
    check_data(cfg, ('test', ))
    checkpoint = find_checkpoint(checkpoint)
    ask(cfg, ('test', ), checkpoint)
    return cfg, checkpoint


def measure(cfg, checkpoint: str,
            args: argparse.Namespace) -> tuple[PaperRow, str]:
    """Make the row of a run, and say how to read its energies."""
    model = build_trained(cfg, checkpoint)
    scores = measure_score(cfg, model) if args.score else {}
    if any(fix_regions(cfg)):
        model = build_trained(cfg, checkpoint)
    batches = load_batches(cfg, 'test', args.images)
    report = measure_energy(model, batches, energy_costs(cfg))
    return paper_row(Path(cfg.filename).stem, model, report, scores), \
        notes(report)
