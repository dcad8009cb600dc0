"""Pictures of what a trained model does, and of how it was trained.

    python tools/visualize.py spikes CONFIG CHECKPOINT photo.jpg folder/
    python tools/visualize.py attention CONFIG CHECKPOINT photo.jpg
    python tools/visualize.py weights CONFIG CHECKPOINT
    python tools/visualize.py gradients CONFIG
    python tools/visualize.py curves WORK_DIR WORK_DIR
    python tools/visualize.py entropy CONFIG CHECKPOINT \\
        [--compare CONFIG CHECKPOINT] [--teacher CONFIG CHECKPOINT]

Every picture is written as .png and as .svg.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor, nn

from ..data.questions import ask
from ..data.sources import check_data
from ..deploy import ENCODINGS
from ..engine.predict import (
    Predictor,
    find_pictures,
    read_picture,
    unused_name,
)
from ..measure.attention_plot import plot_attention, plot_heads
from ..measure.attention_rows import (
    choose_layers,
    recorded_attention,
    striking_places,
)
from ..measure.codes import weight_codes
from ..measure.curves import choose_keys, read_run, smooth
from ..measure.curves_plot import plot_curves
from ..measure.entropy import spike_entropy, write_json
from ..measure.entropy_plot import plot_entropy
from ..measure.entropy_table import print_entropy
from ..measure.gradients import (
    compare_with_counterpart,
    find_faults,
    print_gradients,
)
from ..measure.gradients_plot import plot_gradients
from ..measure.seen import picture_seen, recorded_inputs
from ..measure.spike_maps import choose_maps, recorded_spike_maps, to_dict
from ..measure.spikes_plot import plot_rates, plot_slots
from ..measure.style import write_json as write_dict
from ..measure.weights_plot import plot_weights
from ..utils.build import build_model, load_batches
from ..utils.frameworks import check_framework
from .common import add_overrides, load_config, load_model
from .ending import ToolParser, command
from .smoke import smoke


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    add_spikes(commands)
    add_attention(commands)
    add_weights(commands)
    add_gradients(commands)
    add_curves(commands)
    add_entropy(commands)
    return parser.parse_args()


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='path of the config, or its name')
    parser.add_argument(
        'checkpoint', help='a checkpoint, or a work dir (its latest one)')
    add_overrides(parser)


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        '--out', help=f'folder of the pictures; default: {default}')


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'pictures', nargs='+', help='files, or folders of pictures')
    parser.add_argument(
        '--layers', nargs='+', metavar='PATH',
        help='which to draw: paths in the model, * matches anything')
    add_out(parser, 'work_dirs/<config name>')
    parser.add_argument(
        '--device', default=get_device(), help='default: %(default)s')
    parser.add_argument(
        '--max-side', type=int, default=2048,
        help='larger pictures are shrunk first, pixels; default: 2048')


def add_spikes(commands) -> None:
    parser = commands.add_parser(
        'spikes', help='spikes of a picture, slot by slot, and firing rates '
        'of every layer')
    parser.set_defaults(run=draw_spikes)
    add_model_arguments(parser)
    add_picture_arguments(parser)
    parser.add_argument(
        '--encoding', choices=ENCODINGS, default=ENCODINGS[0],
        help=f'how binary slots carry a count; default: {ENCODINGS[0]}')


def add_attention(commands) -> None:
    parser = commands.add_parser(
        'attention', help='which places of a picture q (k^T v) reads')
    parser.set_defaults(run=draw_attention)
    add_model_arguments(parser)
    add_picture_arguments(parser)
    parser.add_argument(
        '--query', nargs=2, type=float, action='append', metavar=('X', 'Y'),
        help='a place that asks: 0..1 of width and height; repeatable; '
        'default: three where the picture has most contrast')
    parser.add_argument(
        '--heads', action='store_true',
        help='a picture for each layer, with a line for each head')


def add_weights(commands) -> None:
    parser = commands.add_parser(
        'weights', help='integer codes and step sizes of every layer')
    parser.set_defaults(run=draw_weights)
    add_model_arguments(parser)
    add_out(parser, 'work_dirs/<config name>')


def add_gradients(commands) -> None:
    parser = commands.add_parser(
        'gradients', help='will it train? gradients, firing rates and '
        'saturation of one step, beside those of the ANN counterpart')
    parser.set_defaults(run=draw_gradients)
    parser.add_argument('config', help='path of the config, or its name')
    add_overrides(parser)
    parser.add_argument(
        '--smoke', action='store_true',
        help='on the digits, with the model of the config as it is')
    parser.add_argument(
        '--images', type=int, default=4,
        help='of the training data, in one batch, at most 8; default: 4')
    parser.add_argument(
        '--seed', type=int, default=0, help='of the weights; default: 0')
    add_out(parser, 'work_dirs/<config name>')


def add_curves(commands) -> None:
    parser = commands.add_parser(
        'curves', help='losses and scores of trainings')
    parser.set_defaults(run=draw_curves)
    parser.add_argument('work_dirs', nargs='+', help='of the trainings')
    parser.add_argument(
        '--names', nargs='+', help='of the trainings in the picture; '
        'default: the names of their work dirs')
    parser.add_argument(
        '--keys', nargs='+', help='what to draw, * matches anything; '
        'default: losses and main scores')
    parser.add_argument(
        '--smooth', type=float,
        help='weight of each neighbor over that of the next nearer, 0..1; '
        'default: 0 for short logs, near 1 for long ones')
    add_out(parser, 'the first work dir')


def add_entropy(commands) -> None:
    entropy = commands.add_parser(
        'entropy', help='potentials, spikes and their entropy in q, k, v')
    add_model_arguments(entropy)
    entropy.set_defaults(run=draw_entropy)
    pair = dict(nargs=2, metavar=('CONFIG', 'CHECKPOINT'))
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
        '--out', '--work-dir', dest='work_dir',
        help='where entropy.json, .png and .svg go; '
        'default: work_dirs/<config name>')


def other_config(path: str) -> Config:
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config at {path}')
    return Config.fromfile(path)


def check_names(names: list[str] | None, default: list[str],
                what: str) -> list[str]:
    names = names or default
    if len(names) != len(default) or len(set(names)) != len(names):
        raise ValueError(f'--names must give {len(default)} different names '
                         f'for the {what}, got {names}')
    return names


def written(files: list[Path]) -> None:
    print('written:', ', '.join(map(str, files)))


def run_on_pictures(args: argparse.Namespace, recorder) -> Iterator[tuple]:
    """Run the model on each picture, and on the way record what it does.

    Args:
        recorder (Callable): From a model to a context that yields a list.

    Yields:
        tuple: A path without suffix for its results, its name, what the
        network saw, what was recorded.
    """
    if args.max_side < 1:
        raise ValueError(f'--max-side must be positive, got {args.max_side}')
    paths = find_pictures(args.pictures)
    cfg = load_config(args)
    out_dir = Path(args.out or cfg.work_dir)
    model, _ = load_model(cfg, args.checkpoint)
    predictor = Predictor(cfg, model, args.device)
    used: set[str] = set()
    for path in paths:
        pixels = read_picture(path, args.max_side).pixels
        inputs: list[Tensor]
        with torch.no_grad(), recorded_inputs(
                model.backbone) as inputs, recorder(model) as recorded:
            predictor.predict(pixels)
        seen = picture_seen(model, inputs[0])
        yield out_dir / unused_name(path.stem, used), path.name, seen, recorded


def draw_spikes(args: argparse.Namespace) -> None:
    for stem, name, seen, maps in run_on_pictures(args, recorded_spike_maps):
        chosen = choose_maps(maps, args.layers)
        written([
            *plot_slots(seen, chosen, args.encoding, name, f'{stem}_spikes'),
            *plot_rates(seen, maps, name, f'{stem}_rates'),
            write_dict(to_dict(maps), f'{stem}_spikes.json')
        ])


def draw_attention(args: argparse.Namespace) -> None:
    for place in args.query or ():
        if not (0 <= place[0] <= 1 and 0 <= place[1] <= 1):
            raise ValueError('--query X Y: shares of width and height, from '
                             f'0 to 1; got {place[0]:g} {place[1]:g}')
    for stem, name, seen, layers in run_on_pictures(args, recorded_attention):
        places = args.query or striking_places(seen, layers[0].grid, 3)
        chosen = choose_layers(layers, args.layers)
        if not args.heads:
            written(plot_attention(seen, chosen, places, name,
                                   f'{stem}_attention'))
            continue
        for layer in chosen:
            written(plot_heads(seen, layer, places, name,
                               f'{stem}_{layer.layer}_heads'))


def draw_weights(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    layers = weight_codes(load_model(cfg, args.checkpoint)[0])
    stem = Path(args.out or cfg.work_dir) / 'weights'
    unused = [x for x in layers if x.unused]
    print(f'{len(layers)} quantized layers, {len(unused)} leave codes unused')
    written([
        *plot_weights(layers, Path(args.config).stem, stem),
        write_dict(dict(layers=[x.to_dict() for x in layers]),
                   stem.with_suffix('.json'))
    ])


def draw_gradients(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    check_framework(cfg)
    if args.smoke:
        print(smoke(cfg))
    check_data(cfg, ('train', ))
    ask(cfg, ('train', ))
    batch = load_batches(cfg, 'train', args.images)[0]
    report, ann = compare_with_counterpart(cfg, initialized, batch, args.seed)
    if not report.neurons:
        raise ValueError(f'{args.config} has no IE-LIF neuron')
    print_gradients(report, ann)
    for fault in find_faults(report, ann):
        print(fault)
    written(plot_gradients(report, ann, Path(args.config).stem,
                           Path(args.out or cfg.work_dir) / 'gradients'))


def initialized(cfg: Config) -> nn.Module:
    """Build the model of a config, with its initial weights."""
    model = build_model(cfg)
    logging.disable(logging.INFO)  # a line for every parameter
    model.init_weights()
    logging.disable(logging.NOTSET)
    return model


def draw_curves(args: argparse.Namespace) -> None:
    smooth([], args.smooth or 0.)  # refuse a bad share before anything is read
    names = check_names(
        args.names, [Path(x).resolve().name for x in args.work_dirs],
        'trainings')
    runs = {n: read_run(x) for n, x in zip(names, args.work_dirs)}
    out_dir = Path(args.out or args.work_dirs[0])
    written(plot_curves(runs, choose_keys(runs, args.keys), args.smooth,
                        out_dir / 'curves'))


def draw_entropy(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    check_framework(cfg)
    check_data(cfg, (args.data, ))
    configs = [args.config, *(config for config, _ in args.compare)]
    names = check_names(args.names, [Path(x).stem for x in configs], 'models')
    models = [load_model(cfg, args.checkpoint, args.data)[0]]
    models += [load_model(other_config(c), k)[0] for c, k in args.compare]
    teacher = args.teacher and load_model(
        other_config(args.teacher[0]), args.teacher[1])[0]
    batches = load_batches(cfg, args.data, args.images)
    reports = {
        name: spike_entropy(model, batches, teacher)
        for name, model in zip(names, models)
    }
    print_entropy(reports)
    out_dir = Path(cfg.work_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_json(reports, out_dir / 'entropy.json')
    for suffix in ('png', 'svg'):
        plot_entropy(reports, out_dir / f'entropy.{suffix}')
    print(f'written: {out_dir}/entropy.json, .png, .svg')


@command
def main() -> None:
    args = parse_args()
    args.run(args)
