"""Training step and inference against the ANN counterpart, and memory."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from mmqsdt.models.counterpart import counterpart_config
from mmqsdt.utils.build import build_model

from .checks import ROOT, Setting, loss_of

# Name in the table -> config, and whether the backbone alone is meant.
MODELS = {
    'backbone': ('cls/qsdt-learned_imagenet', True),
    'Mask R-CNN': ('det/qsdt-learned_maskrcnn_coco', False),
}
HALF = torch.float16
WARMUP = 3


@dataclass(frozen=True)
class Row:
    """What one way to run one model took.

    Attributes:
        model, task, precision (str): In words.
        compiled (bool): Whether torch.compile ran backbone and neck.
        ms (float): Median of ours.
        ann_ms (float): Median of the counterpart, in turn with it.
        mib, ann_mib (float): Peak memory of the device; nan on a CPU.
    """
    model: str
    task: str
    precision: str
    compiled: bool
    ms: float
    ann_ms: float
    mib: float
    ann_mib: float


def build(setting: Setting, name: str, ann: bool, train: bool,
          compiled: bool) -> nn.Module:
    """Build a model of ``MODELS`` whose thresholds have started."""
    path, backbone_only = MODELS[name]
    cfg = Config.fromfile(ROOT / f'configs/{path}.py')
    cfg.model.backbone.arch = setting.arch
    if not isinstance(setting.arch, str):  # a small one, to try this out
        channels = list(setting.arch['embed_dims'])
        if backbone_only:
            cfg.model.head.in_channels = channels[-1]
        else:
            cfg.model.neck.in_channels = channels
    model = build_model(counterpart_config(cfg) if ann else cfg)
    if backbone_only:
        model = model.backbone
    model.to(setting.device).train()
    with torch.no_grad():
        images = setting.images(1, setting.size)
        model(images) if backbone_only else model.extract_feat(images)
    parts = [model] if backbone_only else [model.backbone, model.neck]
    for part in parts if compiled else ():
        part.compile(backend=setting.backend)
    return model.train(train)


def samples(batch: int, size: int, device: str) -> list[DetDataSample]:
    """Make annotations: four boxes an image, with full masks."""
    corner = torch.arange(4.) * size / 8
    bboxes = torch.stack([corner, corner, corner + size / 4,
                          corner + size / 4], 1)
    shape = dict.fromkeys(
        ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'),
        (size, size))
    found = []
    for _ in range(batch):
        sample = DetDataSample(metainfo=dict(shape, scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(
            bboxes=bboxes, labels=torch.arange(4),
            masks=BitmapMasks(np.ones((4, size, size), np.uint8), size, size))
        sample.ignored_instances = InstanceData(
            bboxes=bboxes[:0], labels=torch.arange(0))
        found.append(sample.to(device))
    return found


def total(losses: dict) -> torch.Tensor:
    """Sum all losses of a detector."""
    return sum(sum(v) if isinstance(v, (list, tuple)) else v
               for k, v in losses.items() if 'loss' in k)


def make_call(setting: Setting, model: nn.Module, train: bool,
              half: bool) -> Callable[[], None]:
    """Prepare a training step, or a prediction of one image."""
    batch = setting.batch if train else 1
    images = setting.images(batch, setting.size)
    detector = hasattr(model, 'rpn_head')
    targets = samples(batch, setting.size, setting.device)
    device = torch.device(setting.device).type

    def context():
        return torch.autocast(device, HALF) if half else nullcontext()

    if not train:
        @torch.no_grad()
        def predict() -> None:
            with context():
                model.predict(images, targets) if detector else model(images)
        return predict

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    scaler = torch.amp.GradScaler(device, enabled=half)

    def step() -> None:
        optimizer.zero_grad()
        with context():
            loss = total(model.loss(images, targets)) if detector else \
                loss_of(model(images))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def timed(setting: Setting, call: Callable[[], None]) -> float:
    """Return milliseconds of one call, the device waited for."""
    if not setting.is_cuda:
        start = time.process_time()
        call()
        return (time.process_time() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def peak(setting: Setting, call: Callable[[], None], before: int) -> float:
    """Return the MiB that model and call need beyond those held before.

    nan on a CPU.
    """
    if not setting.is_cuda:
        return float('nan')
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure_row(setting: Setting, name: str, train: bool, half: bool,
                compiled: bool) -> Row:
    """Time ours and the counterpart, in turn."""
    memory, calls = [], []
    for ann in (False, True):
        before = torch.cuda.memory_allocated() if setting.is_cuda else 0
        call = make_call(
            setting, build(setting, name, ann, train, compiled), train, half)
        for _ in range(WARMUP if setting.is_cuda else 1):
            call()
        memory.append(peak(setting, call, before))
        calls.append(call)
    times = np.array([[timed(setting, call) for call in calls]
                      for _ in range(setting.rounds)])
    ms = np.median(times, 0)
    return Row(name, 'training step' if train else 'prediction',
               'float16' if half else 'float32', compiled, float(ms[0]),
               float(ms[1]), *memory)


def measure(setting: Setting, names: list[str] | None = None) -> list[Row]:
    """Measure every row; what fails is printed and left out."""
    rows = []
    for name in names or MODELS:
        for train in (True, False):
            for half in (False, True):
                for compiled in (False, True):
                    torch._dynamo.reset()
                    try:
                        rows.append(measure_row(
                            setting, name, train, half, compiled))
                    except Exception as error:  # such as no memory left
                        print(f'FAILED  {name}, train={train}, half={half}, '
                              f'compiled={compiled}: '
                              f'{type(error).__name__}: {error}')
    return rows


def to_table(setting: Setting, rows: list[Row]) -> str:
    """Write Markdown, with where it was measured."""
    where = torch.cuda.get_device_name() if setting.is_cuda else \
        'CPU, one thread, processor time'
    lines = [
        f'{where}, PyTorch {torch.__version__}, {setting.size} x '
        f'{setting.size}, batch {setting.batch} in training and 1 in '
        f'prediction, medians of {setting.rounds} rounds in turn.', '',
        '| model | what | precision | compiled | ms | ANN, ms | over ANN | '
        'peak MiB | ANN, MiB |', '| --- ' * 9 + '|']
    for row in rows:
        memory = ['' if np.isnan(x) else f'{x:.0f}'
                  for x in (row.mib, row.ann_mib)]
        lines.append('| ' + ' | '.join([
            row.model, row.task, row.precision,
            'yes' if row.compiled else 'no', f'{row.ms:.1f}',
            f'{row.ann_ms:.1f}', f'{row.ms / row.ann_ms:.2f}', *memory])
            + ' |')
    return '\n'.join(lines)
