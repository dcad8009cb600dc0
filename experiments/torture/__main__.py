"""Inject faults into mmqsdt and show what was lost.

    python -m experiments.torture [--only WORDS ...] [--page FILE.md]
"""

import argparse
import os
import platform
import tempfile
import time
import warnings
from pathlib import Path

import torch

from ..markdown import write_table
from .budget import Budget
from .cases import CASES, Case
from .training import PATIENCE, prepare

# Seconds, on two cores. In the last of them no fault is injected: what has
# been begun is finished, or found to hang.
LIMIT = 30 * 60
COLUMNS = ('injected', 'times', 'promise', 'lost', 'measured', 'seconds')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--only', nargs='+', help='cases whose fault has one of these words')
    parser.add_argument(
        '--page', help='.md file to put the table into, between its marks')
    parser.add_argument(
        '--minutes', type=float, default=LIMIT / 60,
        help='bound; default: %(default)g')
    args = parser.parse_args()
    if args.page and args.only:
        parser.error('--page is for the table of all cases')
    # One thread: the children are forked, and OpenMP's threads are not.
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    import mmpretrain.models  # noqa: F401  once, for all children
    import mmseg.models  # noqa: F401

    cases = [case for case in CASES if not args.only or any(
        word in case.fault for word in args.only)]
    started = time.monotonic()
    rows, failures = [], []
    for i, case in enumerate(cases):
        left = started + args.minutes * 60 - PATIENCE - time.monotonic()
        share = case.seconds / sum(each.seconds for each in cases[i:])
        row, wrong = run_case(case, max(0., left * share), left > 0)
        rows.append(row)
        failures += [f'{case.fault}: {each}' for each in wrong]
        print(f'{time.monotonic() - started:5.0f} s  {case.fault}: '
              f'{row[1]} injected, {row[3]} lost', flush=True)
    table = make_table(rows, time.monotonic() - started)
    print(f'\n{table}')
    if args.page:
        write_table(table, args.page, 'torture')
    for each in failures:
        print(each)
    raise SystemExit(bool(failures))


def run_case(case: Case, seconds: float, in_time: bool
             ) -> tuple[list[str], list[str]]:
    """Run a case; return its row of the table, and what went wrong."""
    budget, begin = Budget(seconds), time.monotonic()
    number, wrong = 0, ['not run, the time was up']
    if in_time:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder))
            try:
                number, wrong = case.run(Path(folder), budget)
            except Exception as error:  # the other cases still count
                number = budget.done
                wrong = [f'{type(error).__name__}: {error}']
    times = f'{number:,}'
    if budget.cut or not in_time:
        times += f' of {case.times:,}: the time was up'
    took = round(time.monotonic() - begin)
    return [case.fault, times, case.promise, str(len(wrong) or 'nothing'),
            '; '.join(budget.figures), f'{took:,}'], wrong


def make_table(rows: list[list[str]], seconds: float) -> str:
    """Make the table in Markdown, with the total time and the machine."""
    lines = ['| ' + ' | '.join(COLUMNS) + ' |', '|---' * len(COLUMNS) + '|']
    lines += ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join(lines) + (
        f'\n\n{len(rows)} kinds of faults in {seconds / 60:.1f} minutes on '
        f'{os.cpu_count()} cores; Python {platform.python_version()}, torch '
        f'{torch.__version__}.\n')


if __name__ == '__main__':
    main()
