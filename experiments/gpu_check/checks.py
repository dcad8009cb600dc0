"""What has to hold on every device.

Each check raises what is wrong, or returns what was seen, in a few words.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch._dynamo import config as dynamo

from mmqsdt import QSDTransformer, SpikeLinearClsHead
from mmqsdt.checkpoints.convert import (
    convert_reference_checkpoint,
    convert_reference_key,
)
from mmqsdt.deploy import compare_forms, to_fast, to_integer, to_spikes

from .operators import compare_operators
from .processes import compare_processes

# cuBLAS computes the same twice only with this, and PyTorch asks for it; it
# is read when CUDA starts.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

ROOT = Path(__file__).parents[2]
SMALL = dict(embed_dims=(16, 32, 32, 64), depths=(1, 1), num_heads=2)
LEARNED = dict(type='mmqsdt.IELIF', threshold='learned')


class Skipped(Exception):
    """A check that this machine has no use for."""


@dataclass(frozen=True)
class Setting:
    """Where, and on what, everything runs.

    Attributes:
        device (str): As torch names it.
        backend (str): Of ``torch.compile``.
        arch (str | dict): Of the models that the table times.
        size (int): Side of the images of that table.
        batch (int): Images of its training steps.
        rounds (int): Timed calls.
    """
    device: str
    backend: str = 'inductor'
    arch: str | dict = '15m'
    size: int = 512
    batch: int = 4
    rounds: int = 10

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU of NVIDIA, or what calls itself so."""
        return torch.device(self.device).type == 'cuda'

    @property
    def processes(self) -> int:
        """That a check of several processes can have."""
        return torch.cuda.device_count() if self.is_cuda else 2

    def images(self, batch: int = 2, size: int = 64) -> Tensor:
        """Random ones, always the same."""
        return torch.randn(batch, 3, size, size,
                           generator=torch.Generator().manual_seed(0)).to(
                               self.device)

    def backbone(self, **options) -> QSDTransformer:
        """Build a small one whose norms and thresholds have seen images."""
        torch.manual_seed(0)
        model = QSDTransformer(SMALL, out_indices=(1, 2, 3, 4), **options)
        for name, parameter in model.named_parameters():
            if 'layer_scale' in name:  # 1e-6 would hide attention and MLP
                nn.init.constant_(parameter, .5)
        model.to(self.device).train()
        with torch.no_grad():
            for _ in range(3):
                model(self.images())
        return model


@contextmanager
def exact_products() -> Iterator[None]:
    """No TF32, which rounds real-valued products to 10 bits."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    cudnn = torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn


def loss_of(maps: tuple[Tensor, ...]) -> Tensor:
    """Return some number that depends on all maps."""
    return sum(x.float().square().mean() for x in maps)


# Parity with the published code.


@cache
def golden(name: str, prefix: str = '') -> dict[str, Tensor]:
    """Numeric entries of a file of golden vectors, the prefix cut off."""
    with np.load(ROOT / f'tests/data/{name}.npz', allow_pickle=False) as file:
        return {key.removeprefix(prefix): torch.tensor(file[key])
                for key in file.files
                if key.startswith(prefix) and file[key].dtype.kind != 'U'}


def check_golden(setting: Setting) -> str:
    """Compare maps, logits, gradients with those of the published code."""
    state, vectors = golden('tiny_cls', 'state/'), golden('tiny_cls')
    arch = dict(embed_dims=(16, 32, 64, 80), depths=(3, 1), num_heads=8)
    model = nn.ModuleDict(dict(
        backbone=QSDTransformer(arch, out_indices=(0, 1, 2, 3, 4)),
        head=SpikeLinearClsHead(10, 80)))
    model.load_state_dict(convert_reference_checkpoint(state))
    model.to(setting.device)
    images = vectors['input'].to(setting.device)
    with torch.no_grad():
        maps = model.eval()['backbone'](images)
        logits = model['head'](maps)
    found = [*maps, logits]
    wanted = [*(vectors[f'stage{i}'][0] for i in range(5)), vectors['logits']]
    model.train()
    train_logits = model['head'](model['backbone'](images))
    train_logits.square().mean().backward()
    found.append(train_logits.detach())
    wanted.append(vectors['train_logits'])
    for a, b in zip(found, wanted):  # float32 sums in another order
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-4)
    parameters, largest = dict(model.named_parameters()), 0.
    for key, expected in golden('tiny_cls', 'grad/').items():
        grad = parameters[convert_reference_key(key)].grad.cpu()
        error = (grad - expected).abs().max() / expected.abs().max()
        largest = max(largest, float(error))
    assert largest < 1e-3, f'gradients differ by {largest:.1e}'
    error = max(float((a.cpu() - b).abs().max())
                for a, b in zip(found, wanted))
    return f'outputs within {error:.1e}, gradients within {largest:.1e}'


# Forms.


def assert_same_counts(model: nn.Module, other: nn.Module,
                       images: Tensor) -> int:
    """See that counts differ by rounding alone, and how many do.

    Every flip is counted where it arises.
    """
    report = compare_forms(model, other, images, isolate=True)
    for neuron in report.neurons:
        assert not neuron.flip_distance > 1e-4, str(report)
    return report.flips


def check_forms(setting: Setting) -> str:
    """Compare integer and spike form with the float form."""
    flips = 0
    for options in (dict(), dict(neuron=LEARNED), dict(time_steps=2)):
        model, images = setting.backbone(**options).eval(), setting.images()
        for convert in (to_integer, to_spikes,
                        lambda m: to_spikes(m, 'bitwise')):
            flips += assert_same_counts(model, convert(model), images)
            double = deepcopy(model).double()
            report = compare_forms(double, convert(double), images.double())
            assert not report.flips, str(report)
    return f'no count differs in float64, {flips} by rounding in float32'


def check_fast_form(setting: Setting) -> str:
    """Run the fast form there, on whatever kernels."""
    model, images = setting.backbone().eval(), setting.images()
    fast = to_fast(model)
    with torch.no_grad():
        for a, b in zip(to_integer(model)(images), fast(images)):
            # On other kernels float32 sums come in another order.
            assert (a - b).abs().mean() < 1e-3 * b.abs().mean()
    kind = type(next(m for n, m in fast.named_modules()
                     if n.endswith('conv1.conv'))).__name__
    return f'layers are {kind}'


# Ways to run a training.


def check_amp(setting: Setting, dtype: torch.dtype) -> str:
    """Step under autocast: finite, and near the steps in float32."""
    losses, device = {}, torch.device(setting.device).type
    for name in ('float32', 'half'):
        model, images = setting.backbone(neuron=LEARNED), setting.images()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        scaler = torch.amp.GradScaler(
            device, enabled=name == 'half' and dtype == torch.float16)
        losses[name] = []
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast(device, dtype, enabled=name == 'half'):
                loss = loss_of(model(images))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses[name].append(float(loss.detach()))
        assert all(p.isfinite().all() for p in model.parameters())
    ratio = losses['half'][-1] / losses['float32'][-1]
    assert .8 < ratio < 1.25, losses
    return f'loss after three steps {ratio:.3f} of that in float32'


def check_channels_last(setting: Setting) -> str:
    """Change the order in memory: no count and no gradient follows."""
    model, images = setting.backbone(neuron=LEARNED), setting.images()
    other = deepcopy(model).to(memory_format=torch.channels_last)
    turned = images.contiguous(memory_format=torch.channels_last)
    flips = assert_same_counts(model.eval(), other.eval(), turned)
    for each, x in ((model, images), (other, turned)):
        loss_of(each.train()(x)).backward()
    cosine = torch.cosine_similarity(
        *(torch.cat([p.grad.flatten() for p in each.parameters()])
          for each in (model, other)), dim=0)
    assert cosine > .99, f'gradients differ: cosine {float(cosine):.4f}'
    return f'{flips} counts differ by rounding'


def check_compile(setting: Setting, neuron: dict) -> str:
    """Compile one graph, forward and backward, once for 20 steps."""
    torch._dynamo.reset()
    model, images = setting.backbone(neuron=neuron), setting.images()
    expected = float(loss_of(deepcopy(model)(images)).detach())
    compiled = torch.compile(
        model, fullgraph=True, backend=setting.backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with dynamo.patch(error_on_recompile=True):
        for step in range(20):
            optimizer.zero_grad()
            loss = loss_of(compiled(images))
            loss.backward()
            optimizer.step()
            if not step:
                seen = float(loss.detach())
                assert abs(seen / expected - 1) < .02, (seen, expected)
    torch._dynamo.reset()
    return f'no break, no second graph ({setting.backend})'


def check_processes(setting: Setting) -> str:
    """Compare two processes with one of twice the batch."""
    if setting.processes < 2:
        raise Skipped('one GPU; NCCL needs two')
    return compare_processes(setting)


class Trained(BaseModel):
    """The backbone and a loss, as a runner trains it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = QSDTransformer(SMALL, neuron=LEARNED)

    def forward(self, x: Tensor, mode: str = 'loss') -> dict[str, Tensor]:
        """Return the loss of one batch."""
        return dict(loss=loss_of(self.backbone(x)))


def check_resume(setting: Setting) -> str:
    """Go on from a checkpoint: it ends as a training in one piece."""
    data = list(setting.images(4).cpu())
    states = []
    with tempfile.TemporaryDirectory() as folder:
        for resume in (False, True):
            runner = Runner(
                Trained(), f'{folder}/{resume}',
                train_dataloader=dict(
                    dataset=data, batch_size=2,
                    sampler=dict(type='DefaultSampler', shuffle=False),
                    collate_fn=lambda batch: dict(x=torch.stack(batch))),
                train_cfg=dict(by_epoch=True, max_epochs=2),
                optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
                default_hooks=dict(checkpoint=dict(
                    type='mmqsdt.ReliableCheckpointHook', interval=1)),
                randomness=dict(seed=0, deterministic=True), resume=resume,
                load_from=f'{folder}/False/epoch_1.pth' if resume else None,
                experiment_name=f'resume_{resume}', log_level='ERROR')
            try:
                runner.train()
            finally:
                torch.use_deterministic_algorithms(False)
            states.append(runner.model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, msg=key)
    return f'{len(states[0])} tensors equal'


def check_operators(setting: Setting) -> str:
    """Compare the stand-in for mmcv's operators with itself on a CPU."""
    return compare_operators(setting.device)


CHECKS: dict[str, Callable[[Setting], str]] = {
    'golden vectors': check_golden,
    'integer and spike form': check_forms,
    'fast form': check_fast_form,
    'AMP, float16': lambda s: check_amp(s, torch.float16),
    'AMP, bfloat16': lambda s: check_amp(s, torch.bfloat16),
    'channels_last': check_channels_last,
    'torch.compile': lambda s: check_compile(s, dict(type='mmqsdt.IELIF')),
    'torch.compile, learned thresholds': lambda s: check_compile(s, LEARNED),
    'two processes': check_processes,
    'resume': check_resume,
    'stand-in operators': check_operators,
}


def run_checks(setting: Setting) -> dict[str, tuple[str, str]]:
    """All of them, each printed as it ends.

    Returns:
        dict: 'ok', 'skipped' or 'FAILED', and a line, by name.
    """
    found = {}
    for name, check in CHECKS.items():
        try:
            with exact_products():
                result = 'ok', check(setting)
        except Skipped as reason:
            result = 'skipped', str(reason)
        except Exception as error:  # the others shall still run
            line = next(iter(f'{error}'.strip().splitlines()), '')
            result = 'FAILED', f'{type(error).__name__}: {line}'
        print(f'{result[0]:8}{name}: {result[1]}', flush=True)
        found[name] = result
    return found
