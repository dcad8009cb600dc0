"""Loading a checkpoint into a model, with every miss said."""

from mmengine.logging import print_log
from torch import nn

from ..layers.lsq import LSQWeight
from ..utils.configs import config_names, tool_command
from .convert import convert_reference_checkpoint, is_reference_checkpoint
from .packing import is_packed, load_packed
from .read import (
    check_finite,
    find_state_dict,
    read_checkpoint,
    saved_widths,
)

# Entries that a quantized or spiking layer has and its ANN counterpart lacks.
NOT_OF_ANN = ('.step_size', '.log_threshold')


def load_pretrained(module: nn.Module,
                    path: str,
                    prefix: str | None = None) -> None:
    """Load a checkpoint into a module and say how many keys matched.

    Step sizes that the checkpoint lacks, or that are of codes of another
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
    content = read_checkpoint(path)
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
        if module.get_submodule(layer).bits:  # else it is said to be unused
            state_dict.pop(f'{layer}.step_size', None)
    own = module.state_dict()
    matched = own.keys() & state_dict.keys()
    name = type(module).__name__
    if not matched:
        raise ValueError(
            f'no key of {path} (prefix {prefix!r}) matches {name}; expected '
            f'keys such as {next(iter(own))!r}, found '
            f'{next(iter(state_dict), "none")!r}')
    shapes = [
        f'{k}: {tuple(state_dict[k].shape)} in the file, '
        f'{tuple(own[k].shape)} in the model' for k in sorted(matched)
        if state_dict[k].shape != own[k].shape
    ]
    if shapes:
        raise ValueError(f'{path} was made with another arch than this '
                         f'{name} ({len(shapes)} shapes differ). First: '
                         f'{shapes[0]}')
    # Of step sizes the layers know better what is wrong.
    check_finite(path, {k: state_dict[k] for k in matched
                        if not k.endswith('step_size')},
                 {k for k, _ in module.named_buffers()})
    missing, unexpected = module.load_state_dict(state_dict, strict=False)
    derived = own.keys() - matched - set(missing)
    message = f'{name}: {len(matched)} of {len(own)} keys loaded from {path}'
    if derived:
        message += f'; {len(derived)} step sizes derived from float weights'
    if missing:
        message += f'; MISSING {len(missing)}, e.g. {missing[0]}'
    if unexpected:
        message += f'; {len(unexpected)} not used, e.g. {unexpected[0]}'
    print_log(message, logger='current')


def other_neuron(model: nn.Module, found: dict) -> str:
    """What to do where a checkpoint lacks what learned neurons have, alone.

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


def other_widths(module: nn.Module, widths: dict[str, int],
                 prefix: str = '') -> list[str]:
    """Quantized layers whose checkpoint was saved with other bits.

    Args:
        module (nn.Module): To load into.
        widths (dict[str, int]): See :func:`saved_widths`.
        prefix (str): What its layers' names have there besides.
            Defaults to ''.
    """
    return [name for name, layer in module.named_modules()
            if isinstance(layer, LSQWeight)
            and widths.get(prefix + name, layer.bits) != layer.bits]


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
    if is_packed(path):
        load_packed(model, path)
        return
    content = read_checkpoint(path)
    state_dict, widths = find_state_dict(content, path), saved_widths(content)
    own = model.state_dict()
    others = other_widths(model, widths)
    if others:
        bits = model.get_submodule(others[0]).bits
        raise ValueError(
            f'{path} was saved with {widths[others[0]]} bits of '
            f'{others[0]}.weight, the config says {bits or "float weights"}: '
            'take the weight_bits that it was trained with')
    missing = [k for k in own if k not in state_dict]
    if missing:
        raise ValueError(
            f'{path} lacks {len(missing)} of the {len(own)} keys of this '
            f'{type(model).__name__}, e.g. {missing[0]}: it was saved'
            + (other_neuron(model, state_dict) or ' from another config'))
    check_finite(path, {k: state_dict[k] for k in own},
                 {k for k, _ in model.named_buffers()})
    try:
        unexpected = model.load_state_dict(state_dict, strict=False)[1]
    except RuntimeError as error:
        raise ValueError(f'{path} was saved from another config: '
                         f'{str(error).splitlines()[1].strip()}') from None
    steps = [k for k in unexpected if k.endswith('.step_size')
             and k.replace('.step_size', '.weight') in own]
    if steps:
        raise ValueError(
            f'{path} has quantized weights, {steps[0]} is one of '
            f'{len(steps)} step sizes, and the config has float ones '
            '(weight_bits=None)')
    message = f'{len(own)} of {len(own)} keys loaded from {path}'
    if unexpected:
        message += f'; {len(unexpected)} not used, e.g. {unexpected[0]}'
    print_log(message, logger='current')


def load_counterpart(model: nn.Module, path: str) -> dict:
    """Load the weights of an ANN counterpart into its spiking network.

    Step sizes and learned thresholds, which the ANN has none of, are left
    for :func:`mmqsdt.engine.calibrate.calibrate`.

    Args:
        model (nn.Module): The spiking network; filled in place.
        path (str): See :func:`load_state_dict`.

    Returns:
        dict: What the checkpoint says of itself, its 'meta'.

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
            f'{path} is of no ANN: it has {len(spiking)} step sizes and '
            f'learned thresholds, e.g. {spiking[0]}. Expected is the '
            'checkpoint of a training with weight_bits=None and '
            "neuron=dict(type='ReLU'); to train a spiking network on, use "
            'load_from or --resume')
    own = {k: v for k, v in model.state_dict().items()
           if not k.endswith(NOT_OF_ANN)}
    missing = [k for k in own if k not in state_dict]
    shapes = [f'{k} is {tuple(state_dict[k].shape)} in the file, '
              f'{tuple(own[k].shape)} in the model' for k in own
              if k in state_dict and state_dict[k].shape != own[k].shape]
    if missing or shapes:
        first = shapes[0] if shapes else f'{missing[0]} is missing'
        raise ValueError(
            f'{path} is not of the ANN counterpart of this '
            f'{type(model).__name__}: of {len(own)} entries {len(missing)} '
            f'are missing and {len(shapes)} have other shapes. First: '
            f'{first}. Train the ANN with the same config, with '
            "weight_bits=None and neuron=dict(type='ReLU') in backbone, neck "
            'and heads alike')
    check_finite(path, {k: state_dict[k] for k in own},
                 {k for k, _ in model.named_buffers()})
    unexpected = model.load_state_dict(state_dict, strict=False)[1]
    message = f'{len(own)} of {len(own)} keys loaded from {path}'
    if unexpected:
        message += f'; {len(unexpected)} not used, e.g. {unexpected[0]}'
    print_log(message, logger='current')
    meta = content.get('meta') if isinstance(content, dict) else None
    return meta if isinstance(meta, dict) else {}
