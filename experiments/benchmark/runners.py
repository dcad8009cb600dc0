"""The model in all forms and its ANN counterpart in all ways, taking turns."""

import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmqsdt.deploy import FORMS, to_form
from mmqsdt.deploy.fast import find_obstacle
from mmqsdt.deploy.fold import FoldedConv, fold
from mmqsdt.deploy.forms import replace_modules
from mmqsdt.deploy.program import find_layers
from mmqsdt.layers import LSQWeight
from mmqsdt.models.counterpart import counterpart_config
from mmqsdt.utils.build import build_model

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


def fold_norms(model: nn.Module) -> nn.Module:
    """Copy a model with the batch norms of its units folded into weights."""
    model = deepcopy(model).eval()
    replaced: dict[nn.Module, nn.Module] = {}
    for entry in find_layers(model).values():
        if not isinstance(entry.layer, LSQWeight):
            continue
        folded = fold(replace(entry, spikes=None), 'count')
        layer = deepcopy(entry.layer)
        scale = folded.scale.view(-1, *[1] * (folded.weight.dim() - 1))
        layer.bits = layer.step_size = None
        layer.weight = nn.Parameter(folded.weight * scale)
        layer.bias = nn.Parameter(folded.bias)
        if isinstance(folded, FoldedConv):
            layer.padding = folded.padding
        replaced[entry.layer] = layer
        replaced.update((norm, nn.Identity()) for norm in entry.norms)
    return replace_modules(model, replaced)


def alternate(runners: dict[str, Callable[[], object]],
              rounds: int,
              warmup: int,
              clock: str = 'wall') -> dict[str, list[float]]:
    """Time each runner in s, one after the other, round by round.

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


def sample_images(batch: int, size: int) -> Tensor:
    """Random images (B, 3, size, size), always the same."""
    return torch.randn(
        batch, 3, size, size, generator=torch.manual_seed(0))


def arguments(model: nn.Module, images: Tensor) -> dict:
    """Time a whole model's prediction, without its preprocessor."""
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


class Models:
    """The model of a config in all forms, and its counterpart in all ways.

    ONNX Runtime runs classifiers as a whole; of detectors and segmenters it
    runs backbone and neck, and PyTorch the heads: folded ones of the
    counterpart, those of the fast form behind integers.

    Args:
        cfg (Config): Of any of the three frameworks.
        names (Sequence[str]): Keys of ``TITLES``.
        weights (Callable, optional): Loads weights into the model.

    Attributes:
        skipped (dict[str, str]): Those that cannot be made, and why.
        timed (dict[str, nn.Module]): What each runner calls, as far as its
            parts are run by PyTorch.
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
        wanted = set(self.names)
        ann = build_model(counterpart_config(cfg))
        self.is_classifier = hasattr(ann, 'head')
        if 'onnx' in wanted and not self.is_classifier:
            wanted.add('fast')  # for its heads
        self.forms = {
            name: to_form(model, name) for name in FORMS if name in wanted}
        obstacle = find_obstacle(model)
        if 'fast' in self.names and obstacle:
            self.skip('fast', obstacle)
        self.forms['ann'] = ann
        self.folded = fold_norms(ann).to(memory_format=torch.channels_last)
        self.timed = {**self.forms, 'ann_folded': self.folded}

    def skip(self, name: str, reason: str) -> None:
        """Leave a runner out from now on."""
        self.skipped[name] = ' '.join(str(reason).split())[:200]
        self.names.remove(name)

    def runners(self, names: Sequence[str], batch: int,
                size: int) -> dict[str, Callable]:
        """Return one function for each, which predicts the same images."""
        images = sample_images(batch, size)
        found = {}
        for name in names:
            try:
                found[name] = self.runner(name, images)
            except Exception as error:  # whatever a compiler may raise
                self.skip(name, f'{type(error).__name__}: {error}')
        return found

    def runner(self, name: str, images: Tensor) -> Callable:
        """One of them."""
        if name == 'ann_compiled':
            return self.compiled_runner(images)
        if name in ('onnx', 'ann_onnx'):
            return self.onnx_runner(name, images)
        model = self.forms.get(name, self.folded)
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

    def onnx_runner(self, name: str, images: Tensor) -> Callable:
        """ONNX Runtime on its CPU provider, with PyTorch's threads."""
        for package in ('onnxruntime', 'onnx', 'onnxscript'):
            if find_spec(package) is None:
                raise ImportError(f'{package} is not installed')
        from mmqsdt.deploy.onnx_graph import (
            Options,
            export_onnx,
            open_session,
            run_onnx,
        )
        integer = name == 'onnx'
        model = self.model if integer else self.forms['ann']
        # In the fast form a neuron of a head may be part of a kernel in the
        # neck, which is not there; the integer form has them all.
        heads = to_form(self.model, 'integer') if integer and \
            not self.is_classifier else self.folded
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, 'model.onnx')
            if self.is_classifier and not integer:
                export_by_torch(self.folded, images, path)
            else:
                export_onnx(
                    model if self.is_classifier else Features(model), path,
                    Options('integer' if integer else 'float',
                            size=tuple(images.shape[2:])))
            session = open_session(path, torch.get_num_threads())
        if self.is_classifier:
            return lambda: run_onnx(session, images)
        hybrid = without_features(heads)
        hybrid.extract_feat = lambda inputs: tuple(
            torch.from_numpy(y) for y in run_onnx(session, inputs).values())
        data = arguments(hybrid, images)
        return lambda: hybrid(**data)


def export_by_torch(model: nn.Module, images: Tensor, path: Path) -> None:
    """PyTorch's own exporter: the baseline owes nothing to ours."""
    model.to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            model, (images, ), str(path), dynamo=True, verbose=False)
    model.to(memory_format=torch.channels_last)


class Features(nn.Module):
    """Backbone and neck of a model, as a model without heads."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.data_preprocessor = model.data_preprocessor
        self.backbone, self.neck = model.backbone, model.neck

    def extract_feat(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> the maps that heads read."""
        return self.neck(self.backbone(images))


def without_features(model: nn.Module) -> nn.Module:
    """Copy a model without what comes before its heads, which are shared."""
    backbone, neck = model.backbone, model.neck
    model.backbone = model.neck = nn.Identity()
    heads = deepcopy(model)
    model.backbone, model.neck = backbone, neck
    return heads
