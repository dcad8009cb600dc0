"""Make the spiking, quantized network of a trained ANN, without training.

    python tools/calibrate.py CONFIG ANN_CHECKPOINT OUT.pth [--images 64]

CONFIG is that of the spiking network, with threshold='learned' in its
neurons; the ANN was trained with the same config but weight_bits=None and
neuron=dict(type='ReLU') wherever CONFIG has spikes. To train on from there:

    python tools/train.py CONFIG --from-ann ANN_CHECKPOINT
"""

import argparse
from io import BytesIO
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.runner import set_random_seed
from mmengine.runner.checkpoint import weights_to_cpu

from ..checkpoints.atomic import write_atomically
from ..checkpoints.fit import load_counterpart
from ..checkpoints.resume import find_checkpoint
from ..data.questions import ask
from ..data.sources import check_data
from ..engine.calibrate import METHODS, Calibration, calibrate
from ..engine.random_states import random_states, set_random_states
from ..models.counterpart import counterpart_config
from ..utils.build import build_model, load_batches
from ..utils.frameworks import check_framework
from ..version import __version__
from .common import add_output, add_overrides, load_config, parse_output
from .ending import ToolParser, command

IMAGES = 64
FILE = 'calibrated.pth'  # in the work dir of a training


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the spiking config')
    parser.add_argument(
        'ann', help='checkpoint of the ANN, or a work dir (its latest)')
    add_output(parser, 'out', 'file to write, a .pth')
    parser.add_argument(
        '--images', type=int, default=IMAGES,
        help=f'how many, of the training data; default: {IMAGES}')
    parser.add_argument(
        '--method', choices=METHODS, default='error',
        help='of thresholds: the least squared error of the spikes, or a '
        'percentile of the potentials; default: error')
    parser.add_argument(
        '--percentile', type=float, default=99.,
        help='of the positive potentials, which gets the largest count; '
        'default: 99')
    add_overrides(parser)
    return parse_output(parser, 'out')


def write_calibrated(cfg: Config, ann: str, out: str | Path,
                     images: int = IMAGES, **options) -> Calibration:
    """Calibrate the model of a config and write its checkpoint.

    Args:
        cfg (Config): Of the spiking network.
        ann (str): Checkpoint of its ANN counterpart.
        out (str | Path): File to write, whole or not at all.
        images (int): How many. Defaults to IMAGES.
        **options: See :func:`mmqsdt.engine.calibrate.calibrate`.

    Raises:
        OSError, ValueError: See :func:`load_counterpart`,
            :func:`load_batches` and :func:`calibrate`.
    """
    # The ANN's settings and classes are those of the config, but for what
    # makes it one.
    ask(counterpart_config(cfg), ('train', ), ann)
    states = random_states()
    try:  # the same images, crops and regions each time
        set_random_seed((cfg.get('randomness') or {}).get('seed') or 0)
        return _write_calibrated(cfg, ann, out, images, **options)
    finally:
        set_random_states(states)


def _write_calibrated(cfg: Config, ann: str, out: str | Path, images: int,
                      **options) -> Calibration:
    model = revert_sync_batchnorm(build_model(cfg))
    meta = load_counterpart(model, ann)
    batches = load_batches(cfg, 'train', images)
    done = calibrate(model.to(get_device()), batches, **options)
    kept = {k: meta[k] for k in ('dataset_meta', 'CLASSES') if k in meta}
    content = BytesIO()
    torch.save(
        dict(
            meta=dict(kept, cfg=cfg.pretty_text, mmqsdt=__version__),
            state_dict=weights_to_cpu(model.state_dict())), content)
    if is_main_process():
        write_atomically(out, content.getbuffer())
    return done


def start_from_ann(cfg: Config, ann: str) -> None:
    """Have a training start from the calibrated network.

    All processes calibrate, because samplers and losses may wait for each
    other; the first one writes, and all load what it wrote.

    Args:
        cfg (Config): With work_dir; its load_from is set.
        ann (str): Checkpoint of the ANN counterpart, or a work dir.

    Raises:
        OSError, ValueError: See :func:`write_calibrated`; in all processes.
    """
    if cfg.get('load_from'):
        raise ValueError('--from-ann and load_from are two starts of one '
                         f'training; leave out load_from={cfg.load_from!r}')
    out = str(Path(cfg.work_dir) / FILE)
    done = error = None
    try:
        done = write_calibrated(cfg, find_checkpoint(ann), out)
    except (OSError, ValueError) as caught:  # all must hear of the first's
        error = caught
    told = [None if error is None else str(error)]
    broadcast_object_list(told)
    if told[0] is not None:
        raise ValueError(told[0])
    if done is not None:
        print_log(f'{done}\nwritten: {out}', logger='current')
    cfg.load_from = out


@command
def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    check_framework(cfg)
    if not args.out.endswith('.pth'):
        raise ValueError('the file to write must end in .pth, got '
                         f'{args.out}')
    check_data(cfg, ('train', ))
    print(write_calibrated(
        cfg, find_checkpoint(args.ann), args.out, args.images,
        method=args.method, percentile=args.percentile))
    print(f'written: {args.out}')
