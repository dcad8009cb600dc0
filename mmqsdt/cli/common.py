"""From a command line to a runner or a model: what the tools share.

Everything that can be known to fail is checked here, before a model is
built or a file is written.
"""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import getsource, signature
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from ..checkpoints.fit import build_trained
from ..checkpoints.read import reading_once
from ..checkpoints.resume import find_checkpoint, guard_loading
from ..data.questions import ask
from ..data.sources import leaf_datasets
from ..models.channels import check_channels
from ..utils.configs import find_config
from ..utils.frameworks import check_framework, know_forks
from .ending import frames, is_from_mmqsdt, keep_traceback

# Keys of our own tools that a config may lack.
OUR_KEYS = ('energy_costs', 'tta_model', 'tta_pipeline')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that training and testing share."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; '
                        'default: work_dirs/<config name>')
    add_overrides(parser)
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='how several processes are started; pytorch: torchrun')
    parser.add_argument(
        '--verbose', action='store_true',
        help='show all that goes to the log file: config, environment, '
        'hooks, how weights were initialized, warnings of the libraries')
    # What torch.distributed.launch passes; torchrun sets the variable.
    parser.add_argument(
        '--local-rank', '--local_rank', type=int, default=0,
        help=argparse.SUPPRESS)


def add_overrides(parser: argparse.ArgumentParser,
                  of: str = 'the config') -> None:
    """Add ``--cfg-options``.

    Args:
        parser (ArgumentParser): Of the tool.
        of (str): Whose entries they override. Defaults to 'the config'.
    """
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction,
        help=f'override entries of {of}: key=value, nested key.sub=value, '
        'lists key="[a,b]"')


def add_output(parser: argparse.ArgumentParser, name: str,
               text: str) -> None:
    """Add the file to write: the last argument, or ``--out``.

    Args:
        parser (ArgumentParser): Of the tool.
        name (str): Of the entry that has it.
        text (str): What it is.
    """
    # Not given, it leaves the option's value alone.
    parser.add_argument(name, nargs='?', default=argparse.SUPPRESS,
                        help=f'{text}; or --out')
    parser.add_argument('--out', dest=name, metavar='FILE',
                        help=argparse.SUPPRESS)


def parse_output(parser: argparse.ArgumentParser, name: str
                 ) -> argparse.Namespace:
    """Read the command line of a tool that :func:`add_output` was given."""
    args = parser.parse_args()
    if getattr(args, name) is None:
        parser.error(f'name the file to write, {name.upper()} or --out')
    return args


def runner_keys() -> set[str]:
    """Keys of a config that mmengine's runners read, as their source says.

    Some, such as model_wrapper_cfg, are no arguments of theirs.
    """
    found = set()
    for runner in (Runner, FlexibleRunner):
        found |= set(signature(runner.__init__).parameters) - {'self', 'cfg'}
        found |= set(re.findall(
            r"""\bcfg(?:\.get\(|\[)\s*['"](\w+)['"]""", getsource(runner)))
    return found


def check_keys(cfg: Config) -> None:
    """Refuse keys that nothing reads, where one is missing that looks alike.

    Raises:
        ValueError: Names both.
    """
    absent = set(signature(Runner.__init__).parameters) - set(cfg)
    for key in set(cfg) - {*runner_keys(), *OUR_KEYS}:
        for near in get_close_matches(key, absent, n=1, cutoff=0.8):
            raise ValueError(f'the config has {key}, which nothing reads, '
                             f'and no {near}: misspelt?')


def read_config(path: str) -> Config:
    """Read a config and those that it inherits from.

    Raises:
        ValueError: Names the file whose syntax is wrong, and the line.
    """
    try:
        return Config.fromfile(path)
    except SyntaxError as error:
        # mmengine parses a text that has no name any more.
        names = [place.tb_frame.f_locals.get('filename')
                 for place in frames(error)]
        file = [name for name in names if str(name).endswith('.py')][-1:]
        raise ValueError(f'{(file or [path])[0]}, line {error.lineno}: '
                         f'{error.msg}') from None


def load_config(args: argparse.Namespace) -> Config:
    """Read the config, by path or shipped name, and merge the arguments.

    Only ``config`` and ``cfg_options`` must be among them: tools of one
    process have no launcher, and not all have a work dir.

    From here on this process reads checkpoints safely, unless the arguments
    have unsafe_load: see :func:`mmqsdt.checkpoints.resume.guard_loading`.

    Raises:
        FileNotFoundError: If there is no such config; suggests the nearest.
        ValueError: If --cfg-options name a key that no config has, the
            config has one that is misspelt, or neck or heads do not fit the
            backbone.
    """
    guard_loading(getattr(args, 'unsafe_load', False))
    os.environ.setdefault('LOCAL_RANK', str(getattr(args, 'local_rank', 0)))
    know_forks()
    cfg = read_config(find_config(args.config))
    check_keys(cfg)
    if args.cfg_options:
        known = {*cfg, *runner_keys(), *OUR_KEYS}
        for key in args.cfg_options:
            top = key.split('.')[0]
            if top not in known:
                near = get_close_matches(top, known, n=1)
                hint = f'; did you mean {near[0]}?' if near else ''
                raise ValueError(f'--cfg-options {key}: the config has no '
                                 f'{top}{hint}')
        cfg.merge_from_dict(args.cfg_options)
    check_channels(cfg.get('model') or {})
    cfg.launcher = getattr(args, 'launcher', 'none')
    if getattr(args, 'work_dir', None):
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = f'work_dirs/{Path(args.config).stem}'
    return cfg


def load_model(cfg: Config, checkpoint: str,
               part: str = 'test') -> tuple[nn.Module, str]:
    """Build the trained model of a config, in eval mode, or refuse it.

    Args:
        cfg (Config): Of any of the three frameworks.
        checkpoint (str): Path of it or of packed weights, or a work dir: its
            last.
        part (str): Whose data will be read. Defaults to 'test'.

    Returns:
        tuple[nn.Module, str]: It, and the path of the checkpoint.

    Raises:
        ImportError: If the framework is not there.
        OSError, ValueError: See :func:`ask` and :func:`build_trained`.
    """
    check_framework(cfg)
    path = find_checkpoint(checkpoint)
    with reading_once():
        ask(cfg, (part, ), path)
        return build_trained(cfg, path), path


def draw_predictions(cfg: Config, out_dir: str | None, number: int | None,
                     show: bool) -> None:
    """Have a test run draw its predictions beside the truth.

    Args:
        cfg (Config): Changed in place.
        out_dir (str, optional): Where the pictures go.
        number (int, optional): How many; None draws all.
        show (bool): Open windows.
    """
    hooks = list(cfg.get('custom_hooks') or [])
    hooks.append(
        dict(
            type='mmqsdt.DrawPredictionsHook',
            out_dir=out_dir,
            number=number,
            show=show))
    cfg.custom_hooks = hooks


def use_tta(cfg: Config) -> None:
    """Test with the augmentation that a config describes.

    Raises:
        KeyError: If it describes none.
    """
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise KeyError('--tta needs tta_model and tta_pipeline in the config')
    cfg.model = dict(cfg.tta_model, module=cfg.model)
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline


def use_double(model: nn.Module) -> None:
    """Compute in float64, where no rounding tells the forms apart.

    Masks of mmdet are still pasted in float32, which is all that it can.
    """
    model.double()
    if not any(hasattr(m, 'mask_head') for m in model.modules()):
        return
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head
    paste = fcn_mask_head._do_paste_mask
    fcn_mask_head._do_paste_mask = lambda masks, boxes, *args, **kwargs: (
        paste(masks.float(), boxes.float(), *args, **kwargs))


def check_length(cfg: Config) -> None:
    """Refuse a training of no iteration.

    Raises:
        ValueError: If max_epochs or max_iters is no whole number above 0.
    """
    for name in ('max_epochs', 'max_iters'):
        length = (cfg.get('train_cfg') or {}).get(name, 1)
        if not isinstance(length, (int, float)) or isinstance(
                length, bool) or length != int(length) or length < 1:
            raise ValueError(f'train_cfg.{name} must be a whole number from '
                             f'1 on, got {length!r}: nothing would be '
                             'trained')


def scale_lr(cfg: Config) -> None:
    """Scale the learning rate to the batch size that is used.

    Raises:
        KeyError: If the config does not say for which it was chosen.
    """
    if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
        raise KeyError('--auto-scale-lr: the config does not say for which '
                       'batch size its learning rate was chosen; add '
                       'auto_scale_lr=dict(base_batch_size=16) or such')
    cfg.auto_scale_lr.enable = True


@contextmanager
def work_of(runner: Runner) -> Iterator[None]:
    """Keep the traceback of an error in a training that had begun.

    Before the first iteration data and model are still being built, and a
    line says more. Messages of mmqsdt say it all at any time.
    """
    try:
        yield
    except Exception as error:
        # Not runner.iter, which would build the loop again if that failed.
        if getattr(getattr(runner, '_train_loop', None), '_iter', 0) and \
                not is_from_mmqsdt(error):
            raise keep_traceback(error)  # noqa: B904  the same one
        raise
