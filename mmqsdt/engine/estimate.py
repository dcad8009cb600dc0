"""What a training will take, before it starts: steps, time, memory.

Backbone and neck, copied, make two steps on small noise; time and what a
step keeps for its backward pass grow with the pixels. Heads, data and
optimizer come on top, so all of it is a lower end.
"""

import math
import os
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..data.sources import leaf_datasets
from ..deploy.operations import tensors
from ..utils.build import unwrap
from ..utils.text import read_text
from .batches import batch_size
from .random_states import random_states, set_random_states

SIDE, IMAGES = 128, 2  # of the noise
STEPS = 2  # the first takes longer: memory is new, kernels are chosen
STATES = 4  # floats for each parameter: itself, its gradient, two of Adam
HALF = ('Amp', 'BFloat16')  # optimizer wrappers that keep half the bytes
# Kinds of crops whose size is said: MMDetection's default, and the only one
# elsewhere.
ABSOLUTE = (None, 'absolute')
# Of the free memory, what a batch that is proposed may take.
SHARE = 0.6


@dataclass(frozen=True)
class Cost:
    """What a network takes for each pixel that it is trained on.

    Attributes:
        saved (float): Bytes kept for the backward pass.
        seconds (float): Of a step.
        fixed (int): Bytes of weights, gradients and optimizer.
    """
    saved: float
    seconds: float
    fixed: int

    def memory(self, pixels: float) -> float:
        """Return the bytes of a step on so many pixels."""
        return self.fixed + pixels * self.saved


def measure_cost(backbone: nn.Module, neck: nn.Module | None = None) -> Cost:
    """Train copies of backbone and neck for two steps on noise.

    Args:
        backbone (nn.Module): On the device of the training.
        neck (nn.Module, optional): Behind it.
    """
    states = random_states()
    parts = [deepcopy(part) for part in (backbone, neck) if part is not None]
    for part in parts:
        part.train()  # of a stock backbone it returns nothing
    parameters = [p for part in parts for p in part.parameters()]
    known = {p.untyped_storage().data_ptr() for p in parameters}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    noise = torch.rand(IMAGES, getattr(backbone, 'in_channels', 3), SIDE, SIDE,
                       device=parameters[0].device)
    seconds = math.inf
    for _ in range(STEPS):
        start, x = time.perf_counter(), noise
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            for part in parts:
                x = part(x)
            sum(each.float().mean() for each in tensors(x)).backward()
        seconds = min(seconds, time.perf_counter() - start)
    set_random_states(states)
    pixels = IMAGES * SIDE * SIDE
    return Cost(sum(saved.values()) / pixels, seconds / pixels,
                STATES * sum(p.numel() * p.element_size()
                             for p in parameters))


def training_size(cfg: Config) -> tuple[int, int] | None:
    """Read the height and width that images are trained on.

    Args:
        cfg (Config): Of any of the three frameworks.
    """
    preprocessor = cfg.model.get('data_preprocessor') or {}
    for part in (preprocessor, *(preprocessor.get('batch_augments') or [])):
        if part.get('size') is not None:
            return _pair(part['size'])
    for dataset in leaf_datasets(cfg.train_dataloader.dataset):
        size = None
        for step in _steps(dataset.get('pipeline') or []):
            kind = str(step.get('type'))
            if 'Crop' in kind and step.get('crop_type') in ABSOLUTE:
                found = step.get('crop_size') or step.get('scale')
                size = found and _pair(found)
            elif 'Resize' in kind:
                size = _resized(step.get('scales') or step.get('scale'))
        if size:
            return size
    return None


def _resized(scale: object) -> tuple[int, int] | None:
    """Height and width, about, of what is resized in proportion."""
    if isinstance(scale, (list, tuple)) and scale and isinstance(
            scale[0], (list, tuple)):
        scale = scale[len(scale) // 2]  # one of several
    if not scale:
        return None
    short, long = sorted(_pair(scale))
    return short, min(long, short * 4 // 3)  # as photographs are


def _steps(pipeline: list) -> list[dict]:
    """List the steps of a pipeline, those of nested ones as well."""
    found = []
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            found += _steps(step)
        elif isinstance(step, dict):
            found += [step, *_steps(step.get('transforms') or [])]
    return found


def _pair(size: object) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)[:2]


def free_memory(device: torch.device | str = 'cpu') -> int | None:
    """Return the bytes a training may take; None where it is not known.

    Of a container its limit counts.
    """
    if torch.device(device).type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    if not Path('/proc/meminfo').is_file():
        return None
    lines = dict(line.split(':') for line in
                 read_text('/proc/meminfo').splitlines())
    free = int(lines['MemAvailable'].split()[0]) * 1024
    for limit, used in (('memory.max', 'memory.current'),
                        ('memory/memory.limit_in_bytes',
                         'memory/memory.usage_in_bytes')):
        limit, used = (Path('/sys/fs/cgroup', p) for p in (limit, used))
        if limit.is_file() and used.is_file():
            limit = read_text(limit).strip()
            if limit.isdigit():
                free = min(free, int(limit) - int(read_text(used)))
    return max(free, 0)


def cores() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') \
        else os.cpu_count() or 1


def gigabytes(number: float) -> str:
    """Write so many bytes for people."""
    return f'{number / 1e9:.1f} GB' if number >= 1e9 else \
        f'{number / 1e6:.0f} MB'


def duration(seconds: float) -> str:
    """Write so many seconds for people."""
    for unit, length in (('days', 86400), ('hours', 3600), ('minutes', 60)):
        if seconds >= 2 * length:
            return f'{seconds / length:.0f} {unit}'
    return f'{seconds:.0f} seconds'


def announce(runner) -> str | None:
    """Say what a training will take at least.

    Args:
        runner (Runner): Built; nothing was trained yet.

    Returns:
        str | None: A line to print; None where the config does not say how
        large the images are.

    Raises:
        ValueError: If the batch cannot fit the memory; names the remedy.
    """
    cfg, model = runner.cfg, unwrap(runner.model)
    size = training_size(cfg)
    if size is None or not hasattr(model, 'backbone') or \
            getattr(model.backbone, 'in_channels', 3) != 3:
        return None
    neck = getattr(model, 'neck', None)
    try:
        cost = measure_cost(model.backbone, neck)
    except (RuntimeError, ValueError, AssertionError):
        return None  # a network that takes no noise of this size
    images = batch_size(runner.train_dataloader)
    wrapper = str((cfg.get('optim_wrapper') or {}).get('type'))
    pixels = size[0] * size[1]
    saved = cost.saved * (0.5 if any(h in wrapper for h in HALF) else 1)
    need = cost.fixed + images * pixels * saved
    device = next(model.parameters()).device
    free = free_memory(device)
    what = f'{images} images of {size[0]} x {size[1]} pixels'
    if free is not None and need > free:
        raise ValueError(too_large(what, images, need, free, cost.fixed,
                                   pixels * saved))
    steps = runner.train_loop.max_iters
    text = f'estimate: {steps:,} steps of {what}'
    if device.type == 'cpu':
        seconds = cost.seconds * images * pixels
        text += (f'; about {seconds:.1f} s a step, '
                 f'{duration(seconds * steps)} in all')
    text += f'; at least {gigabytes(need)} of memory'
    if free is not None:
        text += f', {gigabytes(free)} are free'
    return text + ' (backbone and neck alone)'


def too_large(what: str, images: int, need: float, free: float,
              fixed: float, each: float) -> str:
    """Say what is wrong with a batch, and what would fit."""
    fitting = int((SHARE * free - fixed) / each)
    text = (f'a batch of {what} takes at least {gigabytes(need)} (backbone '
            f'and neck alone), and {gigabytes(free)} are free. ')
    if fitting < 1:
        return text + ('Not one image fits: take smaller images or a smaller '
                       'arch, or --cfg-options model.backbone.with_cp=True')
    counts = -(-images // fitting)
    return text + ('Take: --cfg-options '
                   f'train_dataloader.batch_size={fitting} '
                   f'optim_wrapper.accumulative_counts={counts}; '
                   'model.backbone.with_cp=True takes less as well')
