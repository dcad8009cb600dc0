"""How long a model takes, against its ANN counterpart."""

import json
import platform
import resource
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..deploy import FORMS, build_model, to_form
from ..deploy.fast import find_obstacle
from ..deploy.fold import FoldedConv2d, fold
from ..deploy.forms import replace_modules
from ..deploy.structure import find_layers
from ..integer_training import store_integers

# What time is: on the wall, or that of the processor, in all threads, which
# other jobs on the machine do not prolong.
CLOCKS = dict(wall=time.perf_counter, cpu=time.process_time)
# What each runner is, as tables say it.
TITLES = dict(
    float='float form (as trained, as published)',
    integer='integer form, plain',
    fast='integer form, fast kernels',
    onnx='integer form, ONNX Runtime',
    spikes='spike form, thermometer',
    ann='ANN counterpart, eager',
    ann_folded='ANN, channels_last, norms folded',
    ann_compiled='ANN, folded, torch.compile',
    ann_onnx='ANN, folded, ONNX Runtime fp32')
# The same of training steps, with the goals: step time and peak memory over
# those of the counterpart.
TRAINING_TITLES = dict(
    model='float form (fake quantisation)',
    integers='the same, integers stored, integer kernels',
    ann='ANN counterpart')
TRAINING_GOALS = dict(model=(1.10, 1.0), integers=(0.9, 0.75))
COUNTERPART = dict(weight_bits=None, neuron=dict(type='ReLU'))


@dataclass
class Timing:
    """Times of one runner on one input.

    Attributes:
        name (str): Key of ``TITLES``.
        batch (int): Images at once.
        size (int): Side of the images, in pixels.
        seconds (list[float]): One a round.
    """
    name: str
    batch: int
    size: int
    seconds: list[float]

    @property
    def median(self) -> float:
        """Of the rounds, in ms."""
        return float(np.median(self.seconds) * 1e3)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles of the rounds, in ms."""
        low, high = np.percentile(self.seconds, (25, 75)) * 1e3
        return float(low), float(high)

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.batch / self.median * 1e3


@dataclass
class Benchmark:
    """What was measured, and where.

    Attributes:
        config (str): Name of the config.
        threads (int): PyTorch's.
        rounds (int): Rounds of each runner.
        clock (str): Key of ``CLOCKS``.
        machine (str): Processor and versions.
        timings (list[Timing]): Of inference.
        skipped (dict[str, str]): Runners that did not run, and why.
        training (dict): Step time in s and peak memory in MiB, by key of
            ``TRAINING_TITLES``; empty if not measured.
        exponents (dict[str, float]): e of time = c * pixels^e, by runner.
        attention_exponents (dict[str, float]): The same of one attention
            unit against its tokens.
    """
    config: str
    threads: int
    rounds: int
    clock: str = 'wall'
    machine: str = ''
    timings: list[Timing] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    exponents: dict[str, float] = field(default_factory=dict)
    attention_exponents: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.machine = self.machine or describe_machine()

    def cases(self) -> list[tuple[int, int]]:
        """(batch, size) in the order they were measured."""
        return list(dict.fromkeys((t.batch, t.size) for t in self.timings))

    def of_case(self, batch: int, size: int) -> list[Timing]:
        """The timings of a case."""
        return [t for t in self.timings if (t.batch, t.size) == (batch, size)]

    def baseline(self, batch: int, size: int) -> Timing | None:
        """The counterpart's best of a case."""
        found = [t for t in self.of_case(batch, size)
                 if t.name.startswith('ann')]
        return min(found, key=lambda t: t.median, default=None)

    def speedup(self, timing: Timing) -> float:
        """Best time of the counterpart over this."""
        baseline = self.baseline(timing.batch, timing.size)
        return baseline.median / timing.median if baseline else float('nan')

    def write_json(self, path: str | Path) -> None:
        """Everything, times of all rounds included."""
        data = asdict(self)
        for entry, timing in zip(data['timings'], self.timings):
            entry.update(
                median_ms=timing.median,
                quartiles_ms=timing.spread,
                images_per_second=timing.throughput,
                speedup=self.speedup(timing))
        Path(path).write_text(json.dumps(data, indent=1))


def describe_machine() -> str:
    """Processor, its integer instructions, and PyTorch."""
    name, flags = platform.processor() or platform.machine(), ''
    info = Path('/proc/cpuinfo')
    if info.exists():
        lines = dict(
            line.split('\t', 1) for line in info.read_text().splitlines()
            if '\t' in line)
        name = lines.get('model name', name).lstrip('\t: ')
        known = lines.get('flags', '').split()
        flags = ' '.join(f for f in ('avx2', 'avx512f', 'avx512_vnni',
                                     'amx_int8') if f in known)
    return f'{name} ({flags}), PyTorch {torch.__version__}'


def counterpart_config(cfg: Config) -> Config:
    """The config of the ANN counterpart: float weights, ReLU, same layers."""
    cfg = deepcopy(cfg)

    def visit(part: dict | list) -> None:
        for value in part.values() if isinstance(part, dict) else part:
            if isinstance(value, (dict, list, tuple)):
                visit(value)
        if isinstance(part, dict) and str(part.get('type')).startswith(
                ('mmqsdt.QSD', 'mmqsdt.Spike')):
            for key, value in COUNTERPART.items():  # update() would merge
                part[key] = deepcopy(value)

    visit(cfg.model)
    return cfg


def fold_norms(model: nn.Module) -> nn.Module:
    """A copy with the batch norms of its units folded into the weights."""
    model = deepcopy(model).eval()
    replaced: dict[nn.Module, nn.Module] = {}
    for entry in find_layers(model).values():
        folded = fold(replace(entry, neuron=None), 'count')
        layer = deepcopy(entry.layer)
        scale = folded.scale.view(-1, *[1] * (folded.weight.dim() - 1))
        layer.weight = nn.Parameter(folded.weight * scale)
        layer.bias = nn.Parameter(folded.bias)
        layer.bits = layer.step_size = None
        if isinstance(folded, FoldedConv2d):
            layer.padding = folded.padding
        replaced[entry.layer] = layer
        replaced.update((norm, nn.Identity()) for norm in entry.norms)
    model = replace_modules(model, replaced)
    for unit in model.modules():  # an attention without neurons has more
        for name in 'q', 'k', 'v', 'proj':
            norm = getattr(unit, f'{name}_norm', None)
            if isinstance(norm, nn.BatchNorm2d):
                conv = getattr(unit, f'{name}_conv')
                conv.pointwise2 = fuse_conv_bn_eval(conv.pointwise2, norm)
                setattr(unit, f'{name}_norm', nn.Identity())
    return model


def alternate(runners: dict[str, Callable[[], object]],
              rounds: int,
              warmup: int,
              clock: str = 'wall') -> dict[str, list[float]]:
    """Times of each runner in s, one after the other, round by round.

    What else the machine does then falls upon all of them alike.

    Args:
        runners (dict): What to call.
        rounds (int): Timed calls of each.
        warmup (int): Calls of each before.
        clock (str): Key of ``CLOCKS``. Defaults to 'wall'.
    """
    now = CLOCKS[clock]
    for run in runners.values():
        for _ in range(warmup):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            start = now()
            run()
            seconds[name].append(now() - start)
    return seconds


def arguments(model: nn.Module, images: Tensor) -> dict:
    """What a whole model takes to predict, without its preprocessor."""
    if not hasattr(model, 'rpn_head') and not hasattr(model, 'bbox_head'):
        return dict(inputs=images)
    from mmdet.structures import DetDataSample
    size = tuple(images.shape[2:])
    shapes = dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(1., 1.))
    samples = [DetDataSample(metainfo=shapes) for _ in images]
    return dict(inputs=images, data_samples=samples, mode='predict')


def fitted_exponent(amounts: Sequence[float],
                    seconds: Sequence[float]) -> float:
    """e of the least squares fit of time = c * amount^e."""
    return float(np.polyfit(np.log(amounts), np.log(seconds), 1)[0])


class Models:
    """The model of a config in all forms, and its counterpart in all ways.

    Args:
        cfg (Config): Of any of the three frameworks.
        names (Sequence[str]): Keys of ``TITLES``.
        weights (Callable, optional): Loads weights into the model.

    Attributes:
        skipped (dict[str, str]): Those that cannot be made, and why.
    """

    def __init__(self,
                 cfg: Config,
                 names: Sequence[str],
                 weights: Callable[[nn.Module], object] | None = None) -> None:
        self.names = list(names)
        self.skipped: dict[str, str] = {}
        model = build_model(cfg)
        if weights is not None:
            weights(model)
        self.model = model
        self.forms = {name: to_form(model, name) for name in names
                      if name in FORMS}
        obstacle = find_obstacle(model)
        if 'fast' in self.forms and obstacle:
            self.skip('fast', obstacle)
        ann = build_model(counterpart_config(cfg))
        self.is_classifier = hasattr(ann, 'head')
        self.forms['ann'] = ann
        self.folded = fold_norms(ann).to(memory_format=torch.channels_last)

    def skip(self, name: str, reason: str) -> None:
        """Leave a runner out from now on."""
        self.skipped[name] = ' '.join(str(reason).split())[:200]
        self.names.remove(name)

    def runners(self, batch: int, size: int) -> dict[str, Callable]:
        """What to call for a prediction of each, on the same images."""
        images = torch.randn(
            batch, 3, size, size, generator=torch.manual_seed(0))
        found = {}
        for name in list(self.names):
            try:
                found[name] = self.runner(name, images)
            except Exception as error:  # whatever a compiler may raise
                self.skip(name, f'{type(error).__name__}: {error}')
        return found

    def runner(self, name: str, images: Tensor) -> Callable:
        """One of them."""
        if name == 'onnx':
            return self.integer_onnx_runner(images)
        if name == 'ann_onnx':
            return self.onnx_runner(images)
        model = self.forms.get(name, self.folded)
        if name == 'ann_compiled':
            return self.compiled_runner(images)
        if name == 'ann_folded':
            images = images.contiguous(memory_format=torch.channels_last)
        data = arguments(model, images)
        return lambda: model(**data)

    def compiled_runner(self, images: Tensor) -> Callable:
        """torch.compile, weights frozen; compiled here and now."""
        if not self.is_classifier:
            raise NotImplementedError('measured for classifiers only')
        if not any(shutil.which(c) for c in ('c++', 'g++', 'clang++')):
            raise RuntimeError('no C++ compiler on this machine')
        import torch._inductor.config as inductor
        images = images.contiguous(memory_format=torch.channels_last)
        with inductor.patch(freezing=True):
            model = torch.compile(self.folded, dynamic=False)
            model(images)
        return lambda: model(images)

    def integer_onnx_runner(self, images: Tensor) -> Callable:
        """What tools/export_onnx.py writes; a detector without its heads on
        regions and its post-processing is not comparable.
        """
        if not self.is_classifier:
            raise NotImplementedError('measured for classifiers only')
        from ..deploy.onnx_graph import export_onnx, open_session, run_onnx
        with tempfile.TemporaryDirectory() as folder:
            path, = export_onnx(self.model, Path(folder, 'model.onnx'))
            session = open_session(path, torch.get_num_threads())
        return lambda: run_onnx(session, images)

    def onnx_runner(self, images: Tensor) -> Callable:
        """ONNX Runtime on its CPU provider, with PyTorch's threads."""
        if not self.is_classifier:
            raise NotImplementedError('measured for classifiers only')
        for package in ('onnxruntime', 'onnx', 'onnxscript'):
            if find_spec(package) is None:
                raise ImportError(f'{package} is not installed')
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads shall not keep a core busy in the others' turns.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, 'model.onnx'))
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                torch.onnx.export(self.folded.to(
                    memory_format=torch.contiguous_format), (images, ), path,
                    dynamo=True, verbose=False)
                self.folded.to(memory_format=torch.channels_last)
            session = onnxruntime.InferenceSession(
                path, options, providers=['CPUExecutionProvider'])
        feed = {session.get_inputs()[0].name: images.numpy()}
        return lambda: session.run(None, feed)


@torch.no_grad()
def measure_inference(report: Benchmark, models: Models,
                      batches: Sequence[int], sizes: Sequence[int],
                      warmup: int) -> None:
    """Time every runner on every batch size at the first resolution, and on
    the first batch size at every resolution.
    """
    cases = [(b, sizes[0]) for b in batches]
    cases += [(batches[0], s) for s in sizes[1:]]
    for batch, size in cases:
        seconds = alternate(
            models.runners(batch, size), report.rounds, warmup,
            report.clock)
        report.timings += [Timing(name, batch, size, times)
                           for name, times in seconds.items()]
    report.skipped = models.skipped
    if len(sizes) > 1:
        for name in models.names:
            timings = [t for t in report.timings
                       if t.name == name and t.batch == batches[0]]
            report.exponents[name] = fitted_exponent(
                [t.size**2 for t in timings], [t.median for t in timings])
        measure_attention(report, models, sizes, warmup)


def measure_attention(report: Benchmark, models: Models,
                      sizes: Sequence[int], warmup: int) -> None:
    """Time one attention unit at stride 16 of every resolution."""
    medians: dict[str, list[float]] = {}
    for size in sizes:
        runners = {}
        for name in models.names:
            backbone = getattr(models.forms.get(name), 'backbone', None)
            if backbone is not None:
                unit = backbone.stages[3].blocks[0].attn
                x = torch.randn(1, backbone.channels[3], size // 16,
                                size // 16)
                runners[name] = lambda unit=unit, x=x: unit(x)
        seconds = alternate(runners, report.rounds, warmup, report.clock)
        for name, times in seconds.items():
            medians.setdefault(name, []).append(float(np.median(times)))
    tokens = [(size // 16)**2 for size in sizes]
    report.attention_exponents = {
        name: fitted_exponent(tokens, times)
        for name, times in medians.items()
    }


class TrainingStep:
    """One step of AdamW on the features of a model.

    Args:
        name (str): Key of ``TRAINING_TITLES``.
        cfg (Config): Of the model, whose counterpart may be asked for.
        batch (int): Images.
        size (int): Side of the images, in pixels.
    """

    def __init__(self, name: str, cfg: Config, batch: int, size: int) -> None:
        model = build_model(counterpart_config(cfg) if name == 'ann' else cfg)
        if name == 'integers':
            store_integers(model)
        self.model = model.train().to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        self.images = torch.randn(batch, 3, size, size).contiguous(
            memory_format=torch.channels_last)

    def __call__(self) -> None:
        loss = sum(x.square().mean()
                   for x in self.model.extract_feat(self.images))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def peak_memory(name: str, cfg: Config, batch: int, size: int) -> float:
    """Peak resident memory of a process after two training steps, MiB."""
    import mmqsdt  # noqa: F401  in a fresh process
    step = TrainingStep(name, cfg, batch, size)
    step()
    step()
    status = Path('/proc/self/status')
    if status.exists():  # getrusage there counts what the parent had, too
        line, = (x for x in status.read_text().splitlines()
                 if x.startswith('VmHWM'))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_training(report: Benchmark, cfg: Config, batch: int, size: int,
                     warmup: int) -> None:
    """Step times in turn; memory in fresh processes.

    The backbone, and the neck if there is one; all in channels_last.
    """
    steps = {name: TrainingStep(name, cfg, batch, size)
             for name in TRAINING_TITLES}
    seconds = alternate(steps, report.rounds, warmup, report.clock)
    del steps
    memory = {}
    for name in TRAINING_TITLES:
        with get_context('spawn').Pool(1) as pool:
            memory[name] = pool.apply(peak_memory, (name, cfg, batch, size))
    report.training = dict(
        batch=batch, size=size, seconds=seconds, peak_mib=memory,
        median_ms={n: float(np.median(s) * 1e3) for n, s in seconds.items()})
