"""Convert the weights that the authors published to ours."""

import re

import torch
from torch import Tensor

# The authors' module names -> ours, tried in this order on each key.
_UNITS = {
    r'downsample1_1\.': 'stages.0.downsample.',
    r'downsample1_2\.': 'stages.1.downsample.',
    r'downsample2\.': 'stages.2.downsample.',
    r'downsample3\.': 'stages.3.downsample.',
    r'downsample4\.': 'stages.4.downsample.',
    r'ConvBlock1_1\.0\.': 'stages.0.blocks.0.',
    r'ConvBlock1_2\.0\.': 'stages.1.blocks.0.',
    r'ConvBlock2_1\.0\.': 'stages.2.blocks.0.',
    r'ConvBlock2_2\.0\.': 'stages.2.blocks.1.',
    r'block3\.(\d+)\.': r'stages.3.blocks.\1.',
    r'block4\.(\d+)\.': r'stages.4.blocks.\1.',
}
_LAYERS = {
    r'encode_conv': 'conv',
    r'encode_bn': 'norm',
    r'Conv\.pwconv1': 'sep_conv.expand.conv',
    r'Conv\.bn1': 'sep_conv.expand.norm',
    r'Conv\.dwconv': 'sep_conv.depthwise',
    r'Conv\.pwconv2': 'sep_conv.project',
    r'Conv\.bn2': 'sep_conv.norm',
    r'conv([12])': r'conv\1.conv',
    r'bn([12])': r'conv\1.norm',
    r'attn\.(\w+)_conv\.0\.body\.0': r'attn.\1_conv.pointwise1',
    r'attn\.(\w+)_conv\.0\.body\.1\.bn': r'attn.\1_conv.norm_pad.bn',
    r'attn\.(\w+)_conv\.0\.body\.2\.0': r'attn.\1_conv.depthwise',
    r'attn\.(\w+)_conv\.0\.body\.2\.1': r'attn.\1_conv.pointwise2',
    r'attn\.(\w+)_conv\.0\.body\.2\.2': r'attn.\1_conv.norm',
    r'attn\.(\w+)_conv\.1': r'attn.\1_norm',
    r'mlp\.fc([12])_conv': r'fc\1.conv',
    r'mlp\.fc([12])_bn': r'fc\1.norm',
}
_ENTRIES = r'(weight|bias|alpha|running_mean|running_var|num_batches_tracked)'
# Bookkeeping of the authors' layers that their forward never reads.
_DEAD = re.compile(r'.*\.(init_state|act\.\w+)$')


def convert_reference_key(key: str) -> str | None:
    """Translate a key of the authors' classifier or backbone to ours.

    Returns:
        str | None: E.g. 'backbone.stages.0.downsample.conv.weight' or
        'head.fc.weight'; None for entries that take no part in the forward.

    Raises:
        KeyError: If the key is none of theirs.
    """
    if _DEAD.match(key):
        return None
    match = re.fullmatch(rf'head\.{_ENTRIES}', key)
    if match:
        return 'head.fc.' + match[1].replace('alpha', 'step_size')
    for unit, ours in _UNITS.items():
        match = re.match(unit, key)
        if not match:
            continue
        prefix, rest = 'backbone.' + match.expand(ours), key[match.end():]
        if re.fullmatch(r'layer_scale[12]', rest):
            return prefix + rest
        for layer, name in _LAYERS.items():
            match = re.fullmatch(rf'{layer}\.{_ENTRIES}', rest)
            if match:
                entry = match[match.lastindex].replace('alpha', 'step_size')
                return f'{prefix}{match.expand(name)}.{entry}'
    raise KeyError(key)


def is_reference_checkpoint(state_dict: dict[str, Tensor]) -> bool:
    """Tell whether the keys are the authors', with or without a prefix."""
    return any(
        re.search(r'(^|\.)downsample1_1\.encode_conv\.', key)
        for key in state_dict)


def convert_reference_checkpoint(
        state_dict: dict[str, Tensor],
        backbone_only: bool = False) -> dict[str, Tensor]:
    """Convert weights of the authors' code to our names and shapes.

    1x1 convs over flattened tokens become 2-D ones, alpha becomes
    step_size, and the dead ``act.*`` entries are dropped.

    Args:
        state_dict (dict[str, Tensor]): The authors' classifier or backbone.
            Prefixes 'module.' and 'backbone.' are accepted.
        backbone_only (bool): Drop the classification head, and the prefix
            'backbone.' from the result. Defaults to False.

    Returns:
        dict[str, Tensor]: State dict of an ImageClassifier of a
        QSDTransformer and a SpikeLinearClsHead; or of the backbone.

    Raises:
        ValueError: If a key is unknown, a step size has no weights or other
            ones, is not finite, or is not positive and no positive one gives
            the same weights.
    """
    converted, unknown = {}, []
    for key, value in state_dict.items():
        plain = re.sub(r'^(module\.)?(backbone\.)?', '', key)
        try:
            name = convert_reference_key(plain)
        except KeyError:
            unknown.append(key)
            continue
        if name is None:
            continue
        if value.dim() == 3:  # Conv1d (out, in, 1) -> Conv2d
            value = value.unsqueeze(-1)
        converted[name] = value
    if unknown:
        raise ValueError(f'{len(unknown)} keys are not of the published '
                         f'QSD-Transformer, e.g. {unknown[0]!r}')
    for name in [n for n in converted if n.endswith('.step_size')]:
        weight = converted.get(name.replace('.step_size', '.weight'))
        if weight is None:
            raise ValueError(f'{name} has no weight beside it: the '
                             'checkpoint is not complete')
        converted[name] = _positive_step_size(name, converted[name], weight)
    if backbone_only:
        converted = {
            name.removeprefix('backbone.'): value
            for name, value in converted.items()
            if name.startswith('backbone.')
        }
    return converted


def _positive_step_size(name: str, step: Tensor, weight: Tensor) -> Tensor:
    """Make a step size positive, and refuse one that was never trained.

    The authors' alpha has no bound. A negative one is accepted if |alpha|
    gives the same 4-bit weights.
    """
    if not (step.is_floating_point() and weight.is_floating_point()) or \
            weight.dim() == 0 or step.shape != weight.shape[:1]:
        raise ValueError(
            f'{name} is {tuple(step.shape)} {step.dtype} for weights of '
            f'{tuple(weight.shape)} {weight.dtype}; there must be one step '
            'size for each output channel')
    if not torch.isfinite(step).all():
        raise ValueError(f'{name} is not finite: the checkpoint was saved '
                         'before the first training step')
    if (step > 0).all():
        return step

    def quantize(s: Tensor) -> Tensor:
        s = s.view(-1, *[1] * (weight.dim() - 1))
        return (weight / s).clamp(-8, 7).round() * s

    positive = step.abs().clamp(min=1e-8)
    if torch.allclose(quantize(step).nan_to_num(), quantize(positive),
                      rtol=0, atol=1e-6):
        return positive
    raise ValueError(f'{name} has {int((step <= 0).sum())} step sizes <= 0 '
                     'for which no positive one gives the same weights')
