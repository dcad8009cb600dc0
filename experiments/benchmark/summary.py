"""The one table that a user decides by, of several benchmarks.

    python -m experiments.benchmark.summary work_dirs/*/benchmark.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmqsdt.utils.tables import to_markdown

from ..markdown import write_table
from .runners import TITLES

# What multiplies small integers, the fastest first, as /proc/cpuinfo calls it.
UNITS = dict(amx_int8='AMX', avx512_vnni='VNNI', avx2='AVX2')
HEAD = ('config', 'size', 'batch', 'processor', 'threads', 'fast form, ms',
        'images/s', 'times as fast', 'as the best float form')


def short_processor(machine: str) -> str:
    """E.g. 'Intel Xeon, AMX', of what describe_machine says."""
    name, _, rest = machine.rpartition(' (')
    for word in ('(R)', '(TM)', ' Processor', ' CPU'):
        name = name.replace(word, '')
    unit = next((u for flag, u in UNITS.items() if flag in rest), 'no VNNI')
    return f'{name.strip()}, {unit}'


def rows_of(path: Path) -> list[list[str]]:
    """One for each case in which the fast form was timed."""
    found = json.loads(path.read_text())
    rows = []
    for fast in found['timings']:
        others = [t for t in found['timings'] if t['name'].startswith('ann')
                  and (t['batch'], t['size']) == (fast['batch'], fast['size'])]
        if fast['name'] != 'fast' or not others:
            continue
        best = min(others, key=lambda t: t['median_ms'])
        rows.append([
            found['config'], str(fast['size']), str(fast['batch']),
            short_processor(found['machine']), str(found['threads']),
            f'{fast["median_ms"]:.1f}', f'{fast["images_per_second"]:.1f}',
            f'{best["median_ms"] / fast["median_ms"]:.2f}',
            TITLES[best['name']].removeprefix('ANN').lstrip(', ')])
    return rows


def to_table(paths: Sequence[Path]) -> str:
    """In Markdown."""
    return to_markdown(HEAD, (row for path in paths for row in rows_of(path)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', nargs='+', type=Path,
                        help='benchmark.json, one or more')
    parser.add_argument(
        '--page', type=Path, help='.md file to put the table into')
    args = parser.parse_args(arguments)
    table = to_table(args.results)
    print(table)
    if args.page:
        write_table(table, args.page, 'summary')


if __name__ == '__main__':
    main()
