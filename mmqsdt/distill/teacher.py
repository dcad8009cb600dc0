"""Building a teacher: frozen, in eval mode, every weight from a checkpoint."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ..checkpoints.convert import (
    convert_reference_checkpoint,
    is_reference_checkpoint,
)
from ..checkpoints.fit import expected_keys, fit
from ..checkpoints.packing import is_packed, load_packed
from ..checkpoints.read import check_finite, load_state_dict
from ..utils.configs import find_config
from ..utils.frameworks import check_framework
from ..utils.preprocessor import normalization


def build_teacher(teacher: str | dict, checkpoint: str | None) -> nn.Module:
    """Build a network, load its weights and freeze it.

    The random numbers of the training are left as they are.

    Args:
        teacher (str | dict): Path of a config of any of the three
            frameworks, or the dict of a model, or of a backbone alone.
        checkpoint (str, optional): Its weights; see :func:`load_teacher`.
            None if the model itself says where they are (an init_cfg of type
            Pretrained, of the model or of parts of it).

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        ImportError: If the framework of the config cannot be imported.
        TypeError: If the teacher is neither a path nor a dict.
        ValueError: If the checkpoint does not fill the teacher.
    """
    model = build_network(teacher)
    parts = [(model, checkpoint)] if checkpoint else _pretrained_parts(model)
    for part, path in parts:
        try:
            load_teacher(part, path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'teacher: {error}; it is trained before the student') \
                from None
    model.eval()  # of some backbones it returns nothing
    return model.requires_grad_(False)


def build_network(teacher: str | dict) -> nn.Module:
    """Build a teacher as it is before its weights are loaded.

    Args:
        teacher (str | dict): See :func:`build_teacher`.
    """
    model_cfg, scope = _model_config(teacher)
    with torch.random.fork_rng(devices=[]), \
            MODELS.switch_scope_and_registry(scope) as registry:
        return registry.build(model_cfg)


def _model_config(teacher: str | dict) -> tuple[dict, str | None]:
    current = DefaultScope.get_current_instance()
    scope = current.scope_name if current else None
    if isinstance(teacher, (str, Path)):
        try:
            cfg = Config.fromfile(find_config(str(teacher)))
        except FileNotFoundError as error:
            raise FileNotFoundError(f'teacher: {error}') from None
        if 'model' not in cfg:
            raise ValueError(f'the teacher config {teacher} has no model')
        check_framework(cfg)
        model_cfg = cfg.model
        if cfg.get('data_preprocessor'):  # mmpretrain keeps it outside
            model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
        return model_cfg, cfg.get('default_scope', scope)
    if isinstance(teacher, dict) and 'type' in teacher:
        return teacher, scope
    raise TypeError('teacher must be the path of a config or the dict of a '
                    f'model, got {teacher!r}')


def _pretrained_parts(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """List the parts of a model whose init_cfg names a checkpoint.

    Their own init_weights would only warn of a checkpoint that does not fit.
    """
    parts = []
    for module in model.modules():
        cfgs = getattr(module, 'init_cfg', None) or []
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
            if cfg.get('type') == 'Pretrained':
                parts.append((module, cfg['checkpoint']))
    if not parts:
        raise ValueError(
            'the teacher has no weights: give a checkpoint, or an '
            "init_cfg=dict(type='Pretrained', checkpoint=...) in its model")
    return parts


def load_teacher(model: nn.Module, path: str) -> None:
    """Load a checkpoint; nothing the teacher needs may be missing.

    Args:
        model (nn.Module): A whole model, or a backbone, which takes the
            'backbone.' part of the checkpoint of a whole model.
        path (str): See :func:`mmqsdt.checkpoints.load_state_dict`; or packed
            weights, see :func:`mmqsdt.load_packed`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If keys are missing, shapes differ, or a value is not
            finite.
    """
    if is_packed(path):
        load_packed(model, path)
        return
    state_dict = load_state_dict(path)
    if is_reference_checkpoint(state_dict):
        state_dict = convert_reference_checkpoint(state_dict)
    own = model.state_dict()
    if not own.keys() & state_dict.keys():
        part = {
            key.removeprefix('backbone.'): value
            for key, value in state_dict.items()
            if key.startswith('backbone.')
        }
        state_dict = part or state_dict
    found = fit(own, state_dict)
    complaint = f'{path} does not fit the teacher ({type(model).__name__})'
    if not found.matched:
        raise ValueError(f'{complaint}: {expected_keys(own, state_dict)}')
    if found.missing:
        raise ValueError(
            f'{complaint}: {len(found.missing)} of {len(own)} keys are '
            f'missing, e.g. {found.missing[0]}. Was it trained with the '
            'config that is given as teacher?')
    if found.shapes:
        raise ValueError(f'{complaint}: {found.shapes[0]}')
    check_finite(path, {key: state_dict[key] for key in own},
                 {key for key, _ in model.named_buffers()})
    model.load_state_dict(state_dict, strict=False)


def check_teacher(teacher: nn.Module, student: nn.Module) -> None:
    """Check that a teacher can teach this student.

    Raises:
        ValueError: If both are built alike, or see differently normalized
            images.
    """
    backbones = [getattr(m, 'backbone', m) for m in (teacher, student)]
    if _structure(backbones[0]) == _structure(backbones[1]):
        raise ValueError(
            'the teacher is the student: both backbones are built of the '
            'same layers, so there is nothing to learn from it. The ANN '
            "counterpart has weight_bits=None and neuron=dict(type='ReLU')")
    ours, theirs = map(normalization, (student, teacher))
    if theirs is not None and theirs.mean is not None and theirs != ours:
        raise ValueError(
            'the teacher was trained on images normalized in another way '
            f'than those of the student: expected {ours}, got {theirs}; both '
            'need the same data_preprocessor')


def _structure(model: nn.Module) -> list[tuple]:
    return [(name, type(module), module.extra_repr())
            for name, module in model.named_modules()]
