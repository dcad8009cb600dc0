"""Inject faults into mmqsdt and show what was lost.

    PYTHONPATH=tests python -m torture [--only WORDS ...] [--json FILE]
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import mmqsdt  # noqa: F401  before any framework: brings mmcv's ops

from .cases import CASES
from .training import prepare

LIMIT = 30 * 60  # seconds, on two cores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--only', nargs='+', default=[''],
        help='cases whose fault has one of these words')
    parser.add_argument('--json', help='write the results to this file')
    args = parser.parse_args()
    # One thread: the children are forked, and OpenMP's threads are not.
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    import mmpretrain.models  # noqa: F401  once, for all children
    import mmseg.models  # noqa: F401

    console = Console()
    results, failures, started = [], [], time.monotonic()
    for case in CASES:
        if not any(word in case.fault for word in args.only):
            continue
        if time.monotonic() - started > LIMIT:
            failures.append(f'{case.fault}: not run, the time is up')
            continue
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder))
            begin = time.monotonic()
            try:
                number, wrong = case.run(Path(folder))
            except Exception as error:  # the other cases still count
                number, wrong = 0, [f'{type(error).__name__}: {error}']
        results.append(
            dict(fault=case.fault, injected=number, promise=case.promise,
                 lost=len(wrong), seconds=round(time.monotonic() - begin)))
        failures += [f'{case.fault}: {each}' for each in wrong]
        console.print(f'{case.fault}: {number} injected, {len(wrong)} lost')
    table = Table('injected', 'times', 'promise', 'lost', 'seconds')
    for row in results:
        table.add_row(row['fault'], f'{row["injected"]:,}', row['promise'],
                      str(row['lost'] or 'nothing'), str(row['seconds']))
    console.print(table)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + '\n')
    for each in failures:
        console.print(each, markup=False, highlight=False)
    raise SystemExit(bool(failures))


if __name__ == '__main__':
    main()
