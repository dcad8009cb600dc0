"""A stock config of a framework with our backbone in it, as a child config."""

import os
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..checkpoints.atomic import write_text
from ..models.channels import Maps, fields, maps_of
from ..utils.configs import find_config, plain
from ..utils.frameworks import (
    FRAMEWORKS,
    check_framework,
    know_forks,
    without_noise,
)
from ..utils.python_text import Code, format_code, render

SIDE = 256  # pixels of the image with which networks are traced
TAPS = {2: 0, 4: 1, 8: 2, 16: 3, 32: 4}  # stride -> tap


def swap_config(stock: str,
                out: str | Path,
                arch: str = '15m',
                weight_bits: int | None = 4,
                force: bool = False) -> Config:
    """Write a child of a stock config with a QSDTransformer as its backbone.

    The stock backbone is run once to see the strides of its maps, and the
    network that was written is built and run once before it is kept.

    Args:
        stock (str): 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
            'mmseg::...', 'mmpretrain::...', or a path.
        out (str | Path): The config to write, .py.
        arch (str): Of the backbone. Defaults to '15m'.
        weight_bits (int, optional): Of its weights; None for the ANN
            counterpart. Defaults to 4.
        force (bool): Replace a file that is there. Defaults to False.

    Returns:
        Config: As it was written, and read again.

    Raises:
        FileNotFoundError: If there is no such config.
        ImportError: If its framework is not installed.
        ValueError: If ``out`` is there, or the network has no place for such
            a backbone.
    """
    out = Path(out)
    if out.suffix != '.py':
        raise ValueError(f'{out} must end in .py')
    if out.exists() and not force:
        raise ValueError(f'{out} exists; name another, or --force')
    know_forks()
    path = find_config(stock)
    cfg = Config.fromfile(path)
    if cfg.get('default_scope') not in FRAMEWORKS:
        raise ValueError(f'{stock} is for {cfg.get("default_scope")}, '
                         f'expected one of {", ".join(FRAMEWORKS)}')
    check_framework(cfg)
    backbone = cfg.get('model', {}).get('backbone')
    if not backbone:
        raise ValueError(f'{stock} has no model.backbone to replace')
    if maps_of(backbone) is not None:
        raise ValueError(f'{stock} has a QSDTransformer already; another '
                         'size: --cfg-options model.backbone.arch=31m')
    seen = trace(backbone, cfg.default_scope)
    ours = choose_backbone(seen, cfg.default_scope, arch, weight_bits)
    changes = dict(backbone=dict(_delete_=True, **ours))
    found = list(fields(cfg.model, maps_of(ours)))
    if not found:
        raise ValueError(
            f'{stock}: neither a neck nor a head says in_channels, so '
            'nothing shows what reads the maps of the backbone')
    for field in found:
        put(changes, cfg.model, field.path, field.expected)
    base = stock if '::' in stock else Path(os.path.relpath(
        path, out.resolve().parent)).as_posix()
    before = out.read_bytes() if out.exists() else None
    write_text(out, compose(cfg, base, changes, backbone, seen))
    try:
        written = Config.fromfile(out)
        try_network(written)
    except BaseException as error:
        out.unlink()
        if before is not None:
            out.write_bytes(before)
        if isinstance(error, Exception):
            raise ValueError(
                f'{stock}: the network does not run with this backbone, '
                f'whose maps are {maps_of(ours)}; {type(error).__name__}: '
                f'{error}') from error
        raise
    return written


def trace(backbone: dict, scope: str) -> Maps:
    """Find the maps of a stock backbone, in a run on an empty image.

    Raises:
        ValueError: If it gives none.
    """
    init_default_scope(scope)
    settings = ConfigDict(deepcopy(backbone))
    settings.pop('init_cfg', None)
    with without_noise():
        network = MODELS.build(settings)
    network.eval()  # of a stock backbone it may return nothing
    with torch.no_grad():
        try:
            outputs = network(torch.zeros(1, 3, SIDE, SIDE))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f'{backbone["type"]} does not run on {SIDE} x {SIDE} pixels, '
                f'so its maps cannot be seen ({error})') from None
    maps = [x for x in (outputs if isinstance(outputs, (list, tuple))
                        else [outputs]) if torch.is_tensor(x) and x.dim() == 4]
    if not maps:
        raise ValueError(f'{backbone["type"]} gives no maps (B, C, H, W)')
    return Maps(tuple(x.shape[1] for x in maps),
                tuple(SIDE // x.shape[3] for x in maps))


def choose_backbone(seen: Maps, scope: str, arch: str,
                    weight_bits: int | None) -> dict:
    """Choose the backbone whose maps take the place of those.

    Args:
        seen (Maps): Of the stock backbone.
        scope (str): Of its config. Classifiers keep the published stride of
            16 at the last map.
        arch (str): See :func:`swap_config`.
        weight_bits (int, optional): See :func:`swap_config`.

    Raises:
        ValueError: If there are more or coarser maps than it can give.
    """
    strides = list(seen.strides)
    if len(strides) > 5 or max(strides) > 32:
        raise ValueError(
            f'the maps of the stock backbone have strides {strides}; those '
            f'of a QSDTransformer have {sorted(TAPS)}')
    if scope == 'mmpretrain' and len(strides) == 1:
        taps, stride = (4, ), 1
    elif set(strides) <= set(TAPS) and len(set(strides)) == len(strides):
        taps, stride = tuple(TAPS[s] for s in strides), 2
    else:  # dilated: 4, 8, 8, 8
        taps = tuple(range(5 - len(strides), 5))
        stride = 1 if max(strides) < 32 else 2
    settings = dict(type='mmqsdt.QSDTransformer', arch=arch,
                    out_indices=taps)
    if stride == 2 and 4 in taps:
        settings['stage4_stride'] = 2
    if weight_bits is None:
        return dict(settings, weight_bits=None, neuron=dict(type='ReLU'))
    if weight_bits != 4:
        settings['weight_bits'] = weight_bits
    return dict(settings, neuron=dict(type='mmqsdt.IELIF',
                                      threshold='learned'))


def put(changes: dict, model: dict, path: tuple, value: object) -> None:
    """Note a change of a model for a child config.

    A child replaces lists as a whole, so a list on the way is copied.
    """
    place, original = changes, model
    for key, following in zip(path[:-1], path[1:]):
        original = original[key]
        if isinstance(key, int) or key in place:
            place = place[key]
        elif isinstance(following, int):
            place[key] = plain(original)
            place = place[key]
        else:
            place = place.setdefault(key, {})
    place[path[-1]] = value


def compose(cfg: Config, base: str, changes: dict, backbone: dict,
            seen: Maps) -> str:
    """Write the text of the child config."""
    lines = [
        f'# {base} with a QSDTransformer in place of '
        f'{backbone["type"]}, whose',
        f'# maps have strides {", ".join(map(str, seen.strides))} and '
        f'{", ".join(map(str, seen.channels))} channels. Written by mmqsdt '
        'swap.',
        f'_base_ = {base!r}',
        '# The stand-in for compiled operators, for tools of the framework.',
        f'custom_imports = {render(imports(cfg))}']
    if cfg.model.get('pretrained'):
        changes['pretrained'] = None
    if (cfg.model.get('init_cfg') or {}).get('type') == 'Pretrained':
        changes['init_cfg'] = None
    if cfg.get('load_from'):
        lines += ['# The weights there are of the other backbone.',
                  'load_from = None']
    lines.append(f'model = {render(changes)}')
    keys = ((cfg.get('optim_wrapper') or {}).get('paramwise_cfg')
            or {}).get('custom_keys') or {}
    slow = {k: v for k, v in keys.items()
            if k.startswith('backbone') and v.get('lr_mult', 1) < 1}
    if slow:
        factors = {k: dict(lr_mult=1.0) for k in slow}
        lines += ['# The stock backbone starts from trained weights and '
                  'learns slowly; take',
                  '# this line away if yours does, too.',
                  'optim_wrapper = dict(paramwise_cfg=dict(custom_keys='
                  f'{Code(repr(factors))}))']
    return format_code('\n'.join(lines) + '\n')


def imports(cfg: Config) -> dict:
    """Add mmqsdt to what the config imports."""
    known = cfg.get('custom_imports') or {}
    names = known.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    return dict(imports=[*names, *({'mmqsdt'} - set(names))],
                allow_failed_imports=False)


def try_network(cfg: Config) -> None:
    """Build the network of a config and run it on an empty image."""
    init_default_scope(cfg.default_scope)
    settings = deepcopy(cfg.model)
    with without_noise():
        network = MODELS.build(settings)
    network.eval()
    shape = (SIDE, SIDE)
    images = torch.zeros(1, 3, *shape)
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape,
                batch_input_shape=shape, scale_factor=(1., 1.))
    with torch.no_grad():
        if cfg.default_scope == 'mmpretrain':
            network(images)
        elif cfg.default_scope == 'mmdet':
            from mmdet.structures import DetDataSample
            network(images, [DetDataSample(metainfo=meta)], mode='tensor')
        else:
            network.encode_decode(images, [meta])
            heads = getattr(network, 'auxiliary_head', None)
            if heads is not None:
                maps = network.extract_feat(images)
                for head in heads if isinstance(
                        heads, nn.ModuleList) else [heads]:
                    head(maps)
