"""Load a checkpoint into a model, and say what does not fit.

Every loader asks :func:`fit` how the tensors of a file compare with those of
a model. Loaders differ in what they accept: a backbone takes what matches,
a model that is tested must be complete.
"""

from dataclasses import dataclass

from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn

from ..layers.lsq import Bits, LSQWeight, width_name
from ..utils.build import build_model
from ..utils.configs import config_names, tool_command
from ..utils.shipped import resolve_weights
from .convert import convert_reference_checkpoint, is_reference_checkpoint
from .packing import is_packed, load_packed, unpacked
from .read import (
    check_finite,
    find_state_dict,
    read_checkpoint,
    saved_meta,
    saved_widths,
)

# Entries that a quantized or spiking layer has and its ANN counterpart lacks.
NOT_OF_ANN = ('.step_size', '.log_threshold')


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file compare with those of a model.

    Attributes:
        matched (list[str]): Keys in both, whatever the shape.
        missing (list[str]): Keys of the model that the file lacks.
        shapes (list[str]): Matched keys of different shapes, in words.
    """
    matched: list[str]
    missing: list[str]
    shapes: list[str]


def fit(own: dict[str, Tensor], found: dict[str, Tensor]) -> Fit:
    """Compare the state dict of a model with that of a file."""
    matched = [key for key in own if key in found]
    return Fit(
        matched=matched,
        missing=[key for key in own if key not in found],
        shapes=[
            f'{key} is {tuple(found[key].shape)} in the file, '
            f'{tuple(own[key].shape)} in the model' for key in matched
            if found[key].shape != own[key].shape
        ])


def expected_keys(own: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """Say which keys would match, of a file none of whose keys does."""
    return (f'no key matches; expected keys such as {next(iter(own))!r}, '
            f'got {next(iter(found), "none")!r}')


def load_pretrained(module: nn.Module,
                    path: str,
                    prefix: str | None = None) -> None:
    """Load a checkpoint into a module and say how many keys matched.

    Step sizes that the checkpoint lacks, or that belong to codes of another
    width, are derived from its weights.

    Args:
        module (nn.Module): Filled in place, e.g. a backbone.
        path (str): See :func:`load_state_dict`. The authors' key names are
            converted.
        prefix (str, optional): Part of the checkpoint to take; None takes
            'backbone.' if there is such a part, else everything.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If no key matches, shapes differ, or a weight is not
            finite.
    """
    path = resolve_weights(path)
    content = unpacked(path) if is_packed(path) else read_checkpoint(path)
    state_dict, widths = find_state_dict(content, path), saved_widths(content)
    if is_reference_checkpoint(state_dict):
        state_dict = convert_reference_checkpoint(state_dict)
    if prefix is None:
        has_backbone = any(k.startswith('backbone.') for k in state_dict)
        prefix = 'backbone.' if has_backbone else ''
    elif prefix and not prefix.endswith('.'):
        prefix += '.'
    state_dict = {
        k[len(prefix):]: v
        for k, v in state_dict.items() if k.startswith(prefix)
    }
    for layer in other_widths(module, widths, prefix):
        if module.get_submodule(layer).bits:  # a float layer reports it unused
            state_dict.pop(f'{layer}.step_size', None)
    own = module.state_dict()
    name = type(module).__name__
    found = fit(own, state_dict)
    if not found.matched:
        raise ValueError(f'{path} (prefix {prefix!r}) is not of {name}: '
                         f'{expected_keys(own, state_dict)}')
    if found.shapes:
        raise ValueError(f'{path} was made with another arch than this '
                         f'{name} ({len(found.shapes)} shapes differ). '
                         f'First: {found.shapes[0]}')
    # A layer says more clearly what is wrong with its step size.
    _check_finite(path, module, {k: state_dict[k] for k in found.matched
                                 if not k.endswith('step_size')})
    missing, unexpected = module.load_state_dict(state_dict, strict=False)
    _say_loaded(path, own, unexpected, missing=missing,
                derived=own.keys() - set(found.matched) - set(missing),
                name=name)


def other_neuron(model: nn.Module, found: dict) -> str:
    """Say what to do where a checkpoint lacks only what learned neurons have.

    Args:
        model (nn.Module): Of any of the three frameworks.
        found (dict): The state dict of the checkpoint.

    Returns:
        str: '' if it lacks other keys, too, or no learned threshold.
    """
    missing = [key for key in model.state_dict() if key not in found]
    if not any(key.endswith('.log_threshold') for key in missing) or \
            not all(key.endswith(NOT_OF_ANN) for key in missing):
        return ''
    if not any(key.endswith(NOT_OF_ANN) for key in found):
        return (' as an ANN, and the config is that of a spiking network: '
                f'{tool_command("calibrate")} makes the one of the other')
    folder = dict(mmpretrain='cls', mmdet='det', mmseg='seg').get(
        type(model).__module__.split('.')[0], '')
    names = [name for name in config_names()
             if name.startswith(folder) and '/qsdt-published_' in name]
    return (' with the published neuron, whose threshold is fixed, and the '
            "config has threshold='learned'. Configs of such checkpoints: "
            f'{", ".join(names)}; or set threshold=0.25 in every neuron')


def other_widths(module: nn.Module, widths: dict[str, Bits],
                 prefix: str = '') -> list[str]:
    """List quantized layers whose checkpoint was saved with other bits.

    Args:
        module (nn.Module): To load into.
        widths (dict[str, int | str]): See :func:`saved_widths`.
        prefix (str): Stands before the names of its layers in the file.
            Defaults to ''.
    """
    return [name for name, layer in module.named_modules()
            if isinstance(layer, LSQWeight)
            and widths.get(prefix + name, layer.bits) != layer.bits]


def build_trained(cfg: Config, path: str) -> nn.Module:
    """Build the model of a config in eval mode, with weights of a checkpoint.

    Args:
        cfg (Config): Of any of the three frameworks.
        path (str): See :func:`load_for_test`.

    Raises:
        FileNotFoundError, ValueError: See :func:`load_for_test`.
    """
    model = build_model(cfg)
    load_for_test(model, path)
    return model


def load_for_test(model: nn.Module, path: str) -> None:
    """Load a whole model; nothing it needs may be missing.

    Args:
        model (nn.Module): Possibly wrapped for DDP or test augmentation.
        path (str): See :func:`load_state_dict`; or packed weights, see
            :func:`mmqsdt.load_packed`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, lacks keys of the model, has
            values that are not finite, or was made by a model of other
            shapes or bits.
    """
    while isinstance(getattr(model, 'module', None), nn.Module):
        model = model.module
    path = resolve_weights(path)
    if is_packed(path):
        load_packed(model, path)
        return
    content = read_checkpoint(path)
    state_dict, widths = find_state_dict(content, path), saved_widths(content)
    others = other_widths(model, widths)
    if others:
        bits = model.get_submodule(others[0]).bits
        raise ValueError(
            f'{path} was saved with {width_name(widths[others[0]])} of '
            f'{others[0]}.weight, the config says {bits or "float weights"}: '
            'take the weight_bits that it was trained with')
    own = model.state_dict()
    found = fit(own, state_dict)
    if found.missing:
        raise ValueError(
            f'{path} lacks {len(found.missing)} of the {len(own)} keys of '
            f'this {type(model).__name__}, e.g. {found.missing[0]}: it was '
            'saved' + (other_neuron(model, state_dict)
                       or ' from another config'))
    if found.shapes:
        raise ValueError(f'{path} was saved from another config '
                         f'({len(found.shapes)} shapes differ). First: '
                         f'{found.shapes[0]}')
    steps = [k for k in state_dict if k.endswith('.step_size')
             and k not in own and k.replace('.step_size', '.weight') in own]
    if steps:
        raise ValueError(
            f'{path} has quantized weights, {steps[0]} is one of '
            f'{len(steps)} step sizes, and the config has float ones '
            '(weight_bits=None)')
    _check_finite(path, model, {k: state_dict[k] for k in own})
    try:
        unexpected = model.load_state_dict(state_dict, strict=False)[1]
    except RuntimeError as error:
        raise ValueError(f'{path} was saved from another config: '
                         f'{str(error).splitlines()[1].strip()}') from None
    _say_loaded(path, own, unexpected)


def load_counterpart(model: nn.Module, path: str) -> dict:
    """Load the weights of an ANN counterpart into its spiking network.

    Step sizes and learned thresholds, which the ANN lacks, are left to
    :func:`mmqsdt.engine.calibrate.calibrate`.

    Args:
        model (nn.Module): The spiking network; filled in place.
        path (str): See :func:`load_state_dict`.

    Returns:
        dict: The checkpoint's 'meta'.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, is of a spiking or quantized
            network, lacks keys, has other shapes or values that are not
            finite.
    """
    content = read_checkpoint(path)
    state_dict = {k.removeprefix('module.'): v
                  for k, v in find_state_dict(content, path).items()}
    spiking = [k for k in state_dict if k.endswith(NOT_OF_ANN)]
    if spiking:
        raise ValueError(
            f'{path} is of no ANN: expected a checkpoint trained with '
            "weight_bits=None and neuron=dict(type='ReLU'), got one with "
            f'{len(spiking)} step sizes and learned thresholds, e.g. '
            f'{spiking[0]}. To go on training a spiking network, use '
            'load_from or --resume')
    own = {k: v for k, v in model.state_dict().items()
           if not k.endswith(NOT_OF_ANN)}
    found = fit(own, state_dict)
    if found.missing or found.shapes:
        raise ValueError(
            f'{path} is not of the ANN counterpart of this '
            f'{type(model).__name__}: of {len(own)} entries '
            f'{len(found.missing)} are missing and {len(found.shapes)} have '
            f'other shapes. First: {first_fault(found)}. Train the ANN with '
            'the same config, with weight_bits=None and '
            "neuron=dict(type='ReLU') in backbone, neck and heads alike")
    _check_finite(path, model, {k: state_dict[k] for k in own})
    unexpected = model.load_state_dict(state_dict, strict=False)[1]
    _say_loaded(path, own, unexpected)
    return saved_meta(content)


def first_fault(found: Fit) -> str:
    """Name the first tensor of another shape, or else the first missing."""
    return (found.shapes or [f'{key} is missing' for key in found.missing])[0]


def _check_finite(path: str, module: nn.Module,
                  state_dict: dict[str, Tensor]) -> None:
    check_finite(path, state_dict, {k for k, _ in module.named_buffers()})


def _say_loaded(path: str, own: dict, unexpected: list[str], *,
                missing: list[str] = (), derived: set[str] = frozenset(),
                name: str = '') -> None:
    """Log how many keys of a model were loaded, and all that were not."""
    loaded = len(own) - len(missing) - len(derived)
    message = f'{name}: ' if name else ''
    message += f'{loaded} of {len(own)} keys loaded from {path}'
    if derived:
        message += f'; {len(derived)} step sizes derived from float weights'
    if missing:
        message += f'; MISSING {len(missing)}, e.g. {missing[0]}'
    if unexpected:
        message += f'; {len(unexpected)} not used, e.g. {unexpected[0]}'
    print_log(message, logger='current')
