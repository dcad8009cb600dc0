"""Make a trained model ready for a hub: weights, config, model card.

    python tools/publish.py CONFIG CHECKPOINT --out DIR [--scores FILE.json]
"""

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from string import Template

import torch
from mmengine.config import Config
from safetensors.torch import save_file
from torch import nn

from ..checkpoints.atomic import write_text
from ..checkpoints.packing import is_packed, pack
from ..checkpoints.read import reading_once
from ..checkpoints.resume import find_checkpoint
from ..data.saved import saved_meta
from ..utils.frameworks import FRAMEWORKS
from ..utils.text import read_json, read_text
from ..version import __version__
from .common import add_overrides, load_config, load_model
from .ending import ToolParser, command
from .zoo import describe_backbone, describe_data

TEMPLATE = Path(__file__).parent / 'templates/model_card.md'
PIPELINE_TAGS = dict(
    mmpretrain='image-classification',
    mmdet='object-detection',
    mmseg='image-segmentation')
# What a run adds to its config, and places on the machine it ran on.
RUN_ENTRIES = ('work_dir', 'load_from', 'resume', 'launcher')


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes:
        weights (Path): The .safetensors file.
        card (Path): The model card, README.md.
        config (Path): config.py.
        sha256 (str): Of the weights' file.
        before (int): Bytes of the checkpoint.
        after (int): Bytes of the weights' file.
    """
    weights: Path
    card: Path
    config: Path
    sha256: str
    before: int
    after: int


def publish(cfg: Config,
            checkpoint: str,
            out_dir: str,
            name: str,
            license: str,
            scores: str | None = None,
            packed: bool = False,
            force: bool = False) -> Published:
    """Write weights, config and model card of a trained model.

    Only the model's own tensors are kept: no optimizer state, no schedule,
    no log, no path. ``<name>-<hash>.safetensors`` carries the first 8 digits
    of its SHA-256, as checkpoints of OpenMMLab do.

    Args:
        cfg (Config): Config of the model.
        checkpoint (str): Its checkpoint; everything the model needs must be
            in it.
        out_dir (str): Folder to write into.
        name (str): Of the model; letters, digits, '-', '_' and '.'.
        license (str): Of the weights, as hubs abbreviate it: 'mit'.
        scores (str, optional): JSON file of scores, as tools/test.py leaves
            it in its work dir.
        packed (bool): Whether to store weights at their true width.
            Defaults to False.
        force (bool): Whether to replace a model card that is there; somebody
            may have written into it. Defaults to False.

    Raises:
        FileExistsError: If there is a model card, without force.
        FileNotFoundError: If the checkpoint or the scores are not there.
        ValueError: If the checkpoint is damaged or of another model, a weight
            is not finite, or the name or the scores are none.
    """
    out = Path(out_dir)
    if not name or set(name) - set(
            'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'
            '0123456789-_.') or name.startswith('.'):
        raise ValueError(f'a model name has letters, digits, - _ and . only, '
                         f'got {name!r}')
    card = out / 'README.md'
    if card.exists() and not force:
        raise FileExistsError(f'{card} is there already, perhaps with words '
                              'of yours; --force replaces it')
    results = describe_scores(scores)
    with reading_once():
        model, _ = load_model(cfg, checkpoint)
        meta = {} if is_packed(checkpoint) else saved_meta(checkpoint)
    check_finite(model)
    cfg = cleaned(cfg)
    out.mkdir(parents=True, exist_ok=True)
    unnamed = out / f'{name}.safetensors.part'
    if packed:
        pack(model, str(unnamed), cfg.pretty_text)
    else:
        # Copies: safetensors refuses tensors that share memory.
        tensors = {k: v.detach().cpu().contiguous().clone()
                   for k, v in model.state_dict().items()}
        save_file(tensors, unnamed, dict(format='pt', mmqsdt=__version__))
    sha256 = hashlib.sha256(unnamed.read_bytes()).hexdigest()
    weights = out / f'{name}-{sha256[:8]}.safetensors'
    unnamed.replace(weights)
    write_text(out / 'config.py', cfg.pretty_text)
    write_text(card, write_card(
        cfg, model, meta, name=name, license=license,
        weights=weights.name, bytes=f'{weights.stat().st_size:,}',
        sha256=sha256, results=results))
    return Published(weights, card, out / 'config.py', sha256,
                     Path(checkpoint).stat().st_size, weights.stat().st_size)


def cleaned(cfg: Config) -> Config:
    """Copy a config without what belongs to one run and its machine."""
    content = cfg.to_dict()
    for entry in RUN_ENTRIES:
        content.pop(entry, None)
    backbone = content.get('model', {}).get('backbone', {})
    if (backbone.get('init_cfg') or {}).get('type') == 'Pretrained':
        del backbone['init_cfg']  # the weights are all here
    return Config(content)


def check_finite(model: nn.Module) -> None:
    """Refuse weights of a training that went wrong.

    Raises:
        ValueError: If a value is infinite or not a number.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f'{name} is not finite: the training diverged; '
                             'take an earlier checkpoint')


def describe_scores(path: str | None) -> str:
    """Lines of a table of scores; what is not measured is not claimed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no numbers.
    """
    if path is None:
        return 'None were given. `python -m mmqsdt test` measures them.'
    if not Path(path).is_file():
        raise FileNotFoundError(f'no scores at {path}')
    try:
        content = read_json(path)
        scores = {k: float(v) for k, v in content.items()
                  if isinstance(v, (int, float)) and not isinstance(v, bool)
                  and not k.endswith('time')}
    except (AttributeError, ValueError) as error:
        raise ValueError(f'{path} is not JSON of scores: {error}') from None
    if not scores:
        raise ValueError(f'{path} holds no scores')
    return '\n'.join([
        '| metric | value |', '|---|---|',
        *(f'| {name} | {value:.4g} |' for name, value in scores.items())])


def write_card(cfg: Config, model: nn.Module, meta: dict,
               **entries: str) -> str:
    """Write the model card.

    Args:
        cfg (Config): Config of the model.
        model (nn.Module): The model.
        meta (dict): What the checkpoint says of its training.
        **entries (str): What else the template names.
    """
    extra, task = FRAMEWORKS[cfg.default_scope]
    size, bits, spikes = describe_backbone(cfg.model.backbone)
    data = describe_data(cfg.train_dataloader.dataset)
    kind = 'An ANN' if spikes == 'ReLU' else 'A spiking network'
    width = f'{bits} bits' if bits.isdigit() and bits != '1' else bits
    width = {'1': '1 bit', 'ternary': 'ternary codes'}.get(width, width)
    tags = ['spiking-neural-network'] * (spikes != 'ReLU') \
        + ['quantization'] * (bits != 'float') + [cfg.default_scope]
    return Template(read_text(TEMPLATE)).substitute(
        entries,
        task=task,
        extra=extra,
        pipeline_tag=PIPELINE_TAGS[cfg.default_scope],
        tags='\n'.join(f'- {tag}' for tag in tags),
        network=cfg.model.type,
        size=size,
        bits=width,
        spikes=spikes,
        data=data,
        parameters=f'{sum(p.numel() for p in model.parameters()):,}',
        version=__version__,
        torch=torch.__version__,
        summary=f'{kind} for {task}, trained on {data}.',
        training=describe_training(cfg, meta),
        limits=f'It knows what is in {data} and nothing else; its scores on '
        'other pictures are not known.')


def describe_training(cfg: Config, meta: dict) -> str:
    """Length, batch and optimizer of a training run.

    The length is what the checkpoint says; without a word, what the config
    plans.
    """
    lengths = []
    for key, unit, noted in (('max_epochs', 'epochs', 'epoch'),
                             ('max_iters', 'iterations', 'iter')):
        planned = cfg.train_cfg.get(key)
        if planned:
            done = meta.get(noted, planned)
            lengths.append(f'{done} {unit}' + (
                f' of the {planned} in its config' if done != planned else ''))
    optimizer = cfg.optim_wrapper.optimizer
    rate = f'{optimizer.lr:g}' if 'lr' in optimizer else 'its default'
    return (f'{", ".join(lengths)}; by its config '
            f'{cfg.train_dataloader.batch_size} images a process and '
            f'{optimizer.type} with learning rate {rate}. '
            '`config.py` has the rest.')


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config, or its name')
    parser.add_argument(
        'checkpoint', help='a checkpoint, or a work dir (its latest one)')
    parser.add_argument('--out', required=True, help='folder to write')
    parser.add_argument(
        '--name', help='of the model; default: that of the config')
    parser.add_argument(
        '--scores', help='JSON of scores, as tools/test.py leaves it in its '
        'work dir')
    parser.add_argument(
        '--license', default='mit', help='of the weights; default: mit')
    parser.add_argument(
        '--packed', action='store_true',
        help='store the weights at their true width')
    parser.add_argument(
        '--force', action='store_true', help='replace a model card')
    add_overrides(parser)
    return parser.parse_args()


@command
def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    done = publish(
        cfg, find_checkpoint(args.checkpoint), args.out,
        args.name or Path(args.config).stem, args.license, args.scores,
        args.packed, args.force)
    print(f'written: {done.weights}, {done.before:,} -> {done.after:,} bytes')
    print(f'sha256:  {done.sha256}')
    print(f'card:    {done.card}')
