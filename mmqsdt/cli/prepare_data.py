"""Make, check or convert a data set, or write a config for one's own.

    python tools/prepare_data.py digits [--out data/digits]
    python tools/prepare_data.py check CONFIG
    python tools/prepare_data.py check folder|coco|pairs|voc data/mine
    python tools/prepare_data.py config coco data/mine --out configs/my.py
    python tools/prepare_data.py huggingface imagenet SOURCE data/imagenet
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from rich.console import Console

from ..checkpoints.atomic import write_atomically, write_text
from ..data.classes import check_names
from ..data.layout import KINDS
from ..utils.configs import tool_command
from ..utils.text import read_lines
from .common import add_overrides, load_config
from .ending import ToolParser, command

HUGGINGFACE = ('imagenet', 'ade20k', 'coco')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = ToolParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    add_digits(commands)
    add_check(commands)
    add_config(commands)
    add_huggingface(commands)
    args = parser.parse_args()
    if args.command == 'check' and (args.what in KINDS) != bool(args.path):
        parser.error('check CONFIG, or check KIND PATH; the kinds: '
                     + ', '.join(KINDS))
    return args


def add_digits(commands: argparse._SubParsersAction) -> None:
    digits = commands.add_parser(
        'digits',
        help='scanned digits: single ones for classification, scenes on '
        'photographs for detection and segmentation',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = digits.add_argument
    add('--out', default='data/digits', help='output folder')
    add('--image-size', type=int, default=160, help='side of a scene, pixels')
    add('--num-train', type=int, default=600, help='training scenes')
    add('--num-val', type=int, default=100, help='validation scenes')
    add('--seed', type=int, default=0, help='random seed')
    add('--force', action='store_true', help='replace digits already there')
    digits.set_defaults(run=make_digits)


def add_check(commands: argparse._SubParsersAction) -> None:
    check = commands.add_parser(
        'check', help='read all images and annotations and say what is wrong',
        description='Read all images and annotations and say what is wrong. '
        'Exit status: 0 clean, or warnings only; 1 something would stop or '
        'spoil a training.')
    add = check.add_argument
    add('what', help=f'a config, or one of {", ".join(KINDS)}')
    add('path', nargs='*', help='folders of data sets of that kind')
    add('--json', metavar='OUT', help='write everything found to this file')
    add_overrides(check)
    add_classes(check)
    check.set_defaults(run=check_data)


def add_config(commands: argparse._SubParsersAction) -> None:
    config = commands.add_parser(
        'config', help='write a config that trains on your data')
    add = config.add_argument
    add('kind', choices=KINDS, help='layout of the data')
    add('path', help='folder of the data set')
    add('--out', required=True, help='the config to write, .py')
    add('--base', help='config to start from: path or name; the default is '
        'a large one of the task')
    add('--no-fit', dest='fit', action='store_false',
        help='leave arch, size of images, batch, length and learning rate as '
        'they are in the base, instead of fitting them to the data and this '
        'machine')
    add('--force', action='store_true', help='replace a config that is there')
    add_classes(config)
    config.set_defaults(run=make_config)


def add_classes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--classes', help='names in the order of their labels, a,b,c, or a '
        'text file with a line each; default: classes.txt in the folder, or '
        'those found')
    parser.add_argument(
        '--ignore-zero', action='store_true',
        help='pairs: label 0 is no class and is ignored, 1 is the first')


def add_huggingface(commands: argparse._SubParsersAction) -> None:
    hub = commands.add_parser(
        'huggingface', help='convert parquet files of the Hugging Face hub '
        'into the usual layout; goes on where it was interrupted')
    add = hub.add_argument
    add('name', choices=HUGGINGFACE, help='ILSVRC/imagenet-1k, '
        '1aurent/ADE20K, or detection-datasets/coco (boxes only)')
    add('source', help='folder with the .parquet files')
    add('dest', help='folder to write, such as data/imagenet')
    add('--boxes', choices=('corners', 'sizes'), help='coco: how its boxes '
        'are given, if they do not show it themselves')
    hub.set_defaults(run=convert)


def make_digits(args: argparse.Namespace) -> None:
    """Make the data set and say where it is."""
    from ..data import prepare_digits
    summary = prepare_digits(args.out, args.image_size, args.num_train,
                             args.num_val, args.seed, args.force)
    if summary['written']:
        print(f'Digits written to {args.out}: {summary["files"]} files')
    else:
        print(f'Digits are complete in {args.out} and were kept '
              f'({summary["files"]} files); --force makes them again')
    for split, counts in summary['splits'].items():
        print(f'  {split}: {counts["single_digits"]} single digits, '
              f'{counts["scenes"]} scenes with {counts["scene_digits"]} '
              'digits')


def read_classes(args: argparse.Namespace) -> tuple[str, ...] | None:
    """Names as typed, or the lines of a file."""
    if args.classes is None:
        return None
    if Path(args.classes).is_file():
        return tuple(read_lines(Path(args.classes)))
    names = [name.strip() for name in args.classes.split(',')]
    if not names[-1]:  # a comma at the end, as a tuple has it
        names.pop()
    wrong = check_names(names)
    if wrong or not names:
        raise ValueError(f'--classes {args.classes}: '
                         f'{"; ".join(wrong) or "no name"}')
    return tuple(names)


def check_data(args: argparse.Namespace) -> None:
    """Check, print a table for each part, exit 1 on errors."""
    from ..data.check import check_config, check_path
    from ..data.report import print_report
    if args.what in KINDS:
        classes = read_classes(args)
        reports = [report for path in args.path for report in check_path(
            args.what, path, classes, args.ignore_zero)]
    else:
        args.config = args.what
        reports = check_config(load_config(args))
    width = None if sys.stdout.isatty() else int(
        os.environ.get('COLUMNS', 120))
    console = Console(width=width)
    for report in reports:
        print_report(report, console)
    errors = sum(report.errors for report in reports)
    if args.json:
        content = dict(errors=errors, parts=[r.to_json() for r in reports])
        write_text(args.json, json.dumps(content, indent=1) + '\n')
    console.print(f'[bold red]{errors} errors[/bold red]' if errors else
                  '[green]no errors[/green]')
    raise SystemExit(1 if errors else 0)


def make_config(args: argparse.Namespace) -> None:
    """Write a config and say how to go on."""
    from ..data.layout import find_parts
    from ..data.own_data import write_config
    from ..engine.recipe import fit_config, refuse_empty
    classes = read_classes(args)
    parts = find_parts(args.kind, args.path, classes, args.ignore_zero)
    refuse_empty(parts)
    with replaced(Path(args.out), args.force):
        cfg = write_config(args.kind, args.path, args.out, args.base,
                           classes, args.ignore_zero)
        recipe = fit_config(args.out, cfg, parts[0]) if args.fit else None
    cfg = Config.fromfile(args.out)
    classes = cfg.metainfo.classes
    check, train = map(tool_command, ('prepare_data', 'train'))
    print(f'{args.out}: {len(classes)} classes, {", ".join(classes)}')
    if recipe:
        print('  fitted to the data and this machine: arch '
              f'{recipe.arch}, batch {recipe.batch}; the file has the reasons')
    print(f'  check the data: {check} check {args.out}\n'
          f'  train:          {train} {args.out}')


@contextmanager
def replaced(path: Path, force: bool) -> Iterator[None]:
    """Have a file written anew; all is as it was if that fails."""
    there = path.exists()
    before = path.read_bytes() if force and path.is_file() else None
    if before is not None:
        path.unlink()
    try:
        yield
    except BaseException:
        if before is not None:
            write_atomically(path, before)
        elif not there:
            path.unlink(missing_ok=True)
        raise


def convert(args: argparse.Namespace) -> None:
    """Convert and say what was written and what was left out."""
    from ..data.huggingface import CONVERTERS
    if args.boxes and args.name != 'coco':
        raise ValueError('--boxes is of coco')
    options = dict(boxes=args.boxes) if args.boxes else {}
    for line in CONVERTERS[args.name](args.source, args.dest, **options):
        print(line)


@command
def main() -> None:
    """Run the command; an error of the user's is one line."""
    args = parse_args()
    args.run(args)
