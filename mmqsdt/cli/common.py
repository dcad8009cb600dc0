"""From a command line to a runner or a model: what the tools share.

Everything that can be known to fail is checked here, before a model is
built or a file is written.
"""

import argparse
import os
from difflib import get_close_matches
from inspect import signature
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from torch import nn

from ..checkpoints.resume import guard_loading
from ..utils.configs import find_config

# Keys that a config may lack, besides those of mmengine's Runner.
MORE_KEYS = ('auto_scale_lr', 'compile', 'energy_costs',
             'find_unused_parameters', 'sync_bn', 'tta_model', 'tta_pipeline')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that training and testing share."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; '
                        'default: work_dirs/<config name>')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override config entries: key=value, nested key.sub=value, '
        'lists key="[a,b]"')
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='how several processes are started; pytorch: torchrun')
    # What torch.distributed.launch passes; torchrun sets the variable.
    parser.add_argument(
        '--local-rank', '--local_rank', type=int, default=0,
        help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config, by path or shipped name, and merge the arguments.

    From here on this process reads checkpoints safely, unless the arguments
    have unsafe_load: see :func:`mmqsdt.checkpoints.resume.guard_loading`.

    Raises:
        FileNotFoundError: If there is no such config; suggests the nearest.
        ValueError: If --cfg-options name a key that no config has.
    """
    guard_loading(getattr(args, 'unsafe_load', False))
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(find_config(args.config))
    if args.cfg_options:
        known = {*cfg, *signature(Runner.__init__).parameters, *MORE_KEYS}
        for key in args.cfg_options:
            top = key.split('.')[0]
            if top not in known:
                near = get_close_matches(top, known, n=1)
                hint = f'; did you mean {near[0]}?' if near else ''
                raise ValueError(f'--cfg-options {key}: the config has no '
                                 f'{top}{hint}')
        cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = f'work_dirs/{Path(args.config).stem}'
    return cfg


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
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


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
        if isinstance(length, bool) or length != int(length) or length < 1:
            raise ValueError(f'train_cfg.{name} must be a whole number from '
                             f'1 on, got {length!r}: nothing would be '
                             'trained')


def is_from_mmqsdt(error: BaseException) -> bool:
    """Whether an error was raised in mmqsdt, whose messages say it all."""
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    package = Path(__file__).resolve().parents[1]
    return package in Path(place.tb_frame.f_code.co_filename).resolve().parents
