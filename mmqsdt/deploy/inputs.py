"""Something to run a model on, if nobody gave anything."""

from collections.abc import Callable, Iterator
from itertools import product
from math import lcm

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

SIDES = (64, 32, 224, 28)
# What heads that read a sequence of maps have.
READS_MAPS = ('predict_by_feat', 'loss_by_feat', 'pre_logits')


def run_example(model: nn.Module, call: Callable) -> None:
    """Run a model, or each part of what is no more than a list of parts.

    Args:
        model (nn.Module): In eval mode.
        call (Callable): call(function, *args, **kwargs) runs a function.

    Raises:
        ValueError: If nothing is found that it runs on.
    """
    if hasattr(model, 'extract_feat') and hasattr(model, 'data_preprocessor'):
        run_whole(model, call)
    elif type(model).forward is nn.Module.forward:
        for child in model.children():
            run_example(child, call)
    elif any(True for _ in model.parameters()):
        call(model, find_input(model))


def run_whole(model: nn.Module, call: Callable) -> None:
    """Run a model of MMPretrain, MMDetection or MMSegmentation on noise.

    Auxiliary heads, which only a training runs, come after it.
    """
    backbone = getattr(model, 'backbone', model)
    channels = getattr(backbone, 'in_channels', None)
    if not isinstance(channels, int):
        channels = next(m.in_channels for m in backbone.modules()
                        if isinstance(m, _ConvNd))
    errors = []
    # The raw outputs; a detector that proposes no region may have none.
    for mode, side in product(('tensor', 'predict'), SIDES):
        images = noise(model, 1, channels, side, side)
        size = side, side
        sample = BaseDataElement(metainfo=dict(
            img_shape=size, ori_shape=size, pad_shape=size,
            batch_input_shape=size, scale_factor=(1., 1.)))
        try:
            model(images, [sample], mode=mode)
            break
        except Exception as error:  # too small, or of a fixed size
            errors.append(error)
    else:
        raise ValueError(cannot(model, errors[0]))
    call(model, images, [sample], mode=mode)
    heads = getattr(model, 'auxiliary_head', None)
    if heads is not None:
        features = model.extract_feat(images)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            call(head, features)


def find_input(part: nn.Module):
    """Return the first guess on which a part of a model runs.

    Raises:
        ValueError: If there is none.
    """
    errors = []
    steps = lcm(*(getattr(m, 'time_steps', 1) for m in part.modules()))
    for guess in guesses(part):
        # Neurons of several time steps have them folded into the batch.
        for each in dict.fromkeys((1, steps)):
            try:
                repeated = repeat(guess, each)
                part(repeated)
                return repeated
            except Exception as error:
                errors.append(error)
    raise ValueError(cannot(part, errors[0] if errors else 'it has no layer'))


def repeat(x: Tensor | tuple[Tensor, ...], times: int):
    """Repeat it along the batch."""
    if isinstance(x, tuple):
        return tuple(repeat(each, times) for each in x)
    return x.repeat(times, *[1] * (x.dim() - 1))


def cannot(model: nn.Module, error: object) -> str:
    """Return the text of an error."""
    text = str(error).splitlines()[0] if str(error) else repr(error)
    return (f'a {type(model).__name__} does not run on noise of the size '
            f'that its first layer takes ({text}); give what its forward '
            'takes as inputs=, a tensor, a tuple or a dict')


def guesses(part: nn.Module) -> Iterator[Tensor | tuple[Tensor, ...]]:
    """Tensors and tuples of maps that a part may take, the likely first."""
    first = next((m for m in part.modules()
                  if isinstance(m, (_ConvNd, nn.Linear))), None)
    channels = getattr(part, 'in_channels', None)
    size = getattr(part, 'roi_feat_size', None)
    sides = SIDES if size is None else (
        size[0] if isinstance(size, (tuple, list)) else size, *SIDES)
    if isinstance(channels, (list, tuple)):
        for side in sides:
            yield tuple(noise(part, 1, c, max(side >> i, 1), max(side >> i, 1))
                        for i, c in enumerate(channels))
        return
    single = []
    if isinstance(first, nn.Linear):
        single += [noise(part, 1, first.in_features),
                   noise(part, 1, 4, first.in_features)]
    width = channels if isinstance(channels, int) else \
        first.in_channels if isinstance(first, _ConvNd) else None
    if width is None and first is None:  # a norm, a neuron
        width = next(len(p) for p in part.parameters())
    if width is not None:
        axes = first.weight.dim() - 2 if isinstance(first, _ConvNd) else 2
        single += [noise(part, 1, width, *[side] * axes) for side in sides]
    several = [(x, ) * 5 for x in single]
    if any(hasattr(part, name) for name in READS_MAPS):
        yield from several
        yield from single
    else:
        yield from single
        yield from several


def noise(model: nn.Module, *shape: int) -> Tensor:
    """Make the same noise each time, of the parameters' type and device."""
    like = next((p for p in model.parameters() if p.is_floating_point()),
                torch.empty(0))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.to(like)
