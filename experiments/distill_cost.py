"""What FGD adds to a training step, and how that grows with the resolution.

    python tools/distill_cost.py configs/cls/qsdt_fgd_imagenet.py \
        --sizes 224 448

The plain step, the step with FGD and the parts of FGD take turns, so that
whatever else the machine does falls upon all of them.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import MethodType, SimpleNamespace

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmqsdt.cli.common import add_overrides, load_config
from mmqsdt.cli.ending import ToolParser, command
from mmqsdt.distill.hook import FGDistillHook
from mmqsdt.distill.teacher import build_network
from mmqsdt.registry import HOOKS
from mmqsdt.utils.build import build_model
from mmqsdt.utils.frameworks import check_framework

from .benchmark import CLOCKS, alternate, fitted_exponent
from .benchmark.report import describe_machine
from .benchmark.tables import new_table

# The step with FGD over the plain one, and e of FGD's own time = c * N^e.
GOAL_RATIO, GOAL_EXPONENT = 1.6, 1.
# What is timed, as tables say it. OWN is what FGD takes beside the teacher.
TITLES = dict(
    plain='plain step',
    fgd='step with FGD',
    teacher='the teacher: one forward, recorded',
    recording="the student's maps as tokens",
    loss='FGD loss, forward and backward')
OWN = ('recording', 'loss')


@dataclass
class CostCase:
    """Times at one resolution.

    Attributes:
        size (int): Side of the images, in pixels.
        tokens (float): N, a mean over the attention layers.
        seconds (dict[str, list[float]]): By key of ``TITLES``, one a round.
    """
    size: int
    tokens: float
    seconds: dict[str, list[float]]

    def median(self, *names: str) -> float:
        """Return the median over rounds in ms; of several parts, the sum."""
        return sum(float(np.median(self.seconds[n])) for n in names) * 1e3

    @property
    def ratio(self) -> float:
        """The step with FGD over the plain one."""
        return self.median('fgd') / self.median('plain')

    @property
    def rest(self) -> float:
        """What the parts do not explain of the difference, in ms."""
        return self.median('fgd') - self.median('plain', 'teacher', *OWN)


@dataclass
class DistillCost:
    """What was measured, and where.

    Attributes:
        config (str): Name of the config.
        batch (int): Images in a step.
        threads (int): PyTorch's.
        rounds (int): Of everything in turn.
        clock (str): Key of ``benchmark.CLOCKS``.
        machine (str): Processor and versions.
        cases (list[CostCase]): By resolution.
    """
    config: str
    batch: int
    threads: int
    rounds: int
    clock: str = 'wall'
    machine: str = field(default_factory=describe_machine)
    cases: list[CostCase] = field(default_factory=list)

    @property
    def exponent(self) -> float | None:
        """e of FGD's own time = c * N^e; None for one resolution."""
        if len({case.tokens for case in self.cases}) < 2:
            return None
        return fitted_exponent([case.tokens for case in self.cases],
                               [case.median(*OWN) for case in self.cases])

    def write_json(self, path: str | Path) -> None:
        """Write everything, times of all rounds included."""
        data = dict(
            asdict(self), exponent=self.exponent, goal_exponent=GOAL_EXPONENT,
            goal_ratio=GOAL_RATIO)
        for entry, case in zip(data['cases'], self.cases):
            entry.update(
                ratio=case.ratio, rest_ms=case.rest,
                median_ms={name: case.median(name) for name in TITLES})
        Path(path).write_text(json.dumps(data, indent=1))


def find_hook(cfg: Config) -> dict:
    """Find the FGDistillHook of a config.

    Raises:
        ValueError: If it has none.
    """
    for hook in cfg.get('custom_hooks') or []:
        if 'FGDistillHook' in str(hook.type):
            return hook
    raise ValueError('no FGDistillHook in the custom_hooks of this config; '
                     'configs/cls/qsdt_fgd_imagenet.py has one')


def _feature_loss(model: nn.Module, inputs: Tensor, data_samples=None,
                  mode: str = 'loss') -> dict:
    """Run backbone and neck, which need no labels."""
    return dict(loss=sum(
        x.square().mean() for x in model.extract_feat(inputs)))


class DistilledStep:
    """Training steps of a config's student, with its hook and without.

    The hook is the one that trainings have, and so is its teacher, but for
    random weights, which change no time. The steps are those of backbone and
    neck, in channels_last, with fused AdamW.

    Args:
        cfg (Config): With a FGDistillHook.
        batch (int): Images.
        size (int): Side of the images, in pixels.

    Raises:
        ValueError: If the config has no such hook.
    """

    def __init__(self, cfg: Config, batch: int, size: int) -> None:
        options = dict(find_hook(cfg), start=0, end=1, interval=1,
                       logit_loss=None)
        if cfg.get('data_preprocessor'):  # the teacher has it, too
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        model = build_model(cfg).train()
        model.forward = MethodType(_feature_loss, model)
        self.model = model.to(memory_format=torch.channels_last)
        with tempfile.TemporaryDirectory() as folder:
            options['checkpoint'] = f'{folder}/teacher.pth'
            torch.save(build_network(options['teacher']).state_dict(),
                       options['checkpoint'])
            self.hook: FGDistillHook = HOOKS.build(options)
            self.hook.before_train(SimpleNamespace(model=model))
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], fused=True)
        channels = getattr(model.backbone, 'in_channels', 3)
        self.images = torch.randn(
            batch, channels, size, size,
            generator=torch.manual_seed(0)).contiguous(
                memory_format=torch.channels_last)

    def step(self, distilled: bool) -> dict[str, Tensor]:
        """Run one step; return its losses."""
        # The hook has its loss from iteration 0 to before 1.
        self.hook.before_train_iter(
            SimpleNamespace(iter=0 if distilled else 1), 0)
        losses = self.model(self.images, mode='loss')
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.optimizer.step()
        return losses

    def parts(self) -> tuple[dict[str, Callable], float]:
        """Return the functions of FGD's parts, and a layer's mean tokens."""
        hook, images = self.hook, self.images
        run_teacher = partial(hook.run_teacher, images, None)
        teacher = run_teacher()
        hook.recorder.start()
        with torch.no_grad():
            self.model.extract_feat(images)
        outputs = dict(hook.recorder.outputs)
        student = hook.recorder.stop(len(images))
        tensors = [x.requires_grad_() for layer in student.tensors
                   for x in layer.values()]

        def loss() -> None:
            found = hook.loss(teacher.tensors, student.tensors,
                              teacher.grids, student.grids)
            torch.autograd.grad(found, tensors, allow_unused=True)

        runners = dict(
            teacher=run_teacher,
            recording=partial(hook.recorder.split, outputs, len(images)),
            loss=loss)
        return runners, float(np.mean([x.shape[2] for x in tensors]))


def measure(report: DistillCost, cfg: Config, sizes: Sequence[int],
            warmup: int) -> None:
    """Time steps and parts in turn, at every resolution.

    Args:
        report (DistillCost): Where the cases go.
        cfg (Config): With a FGDistillHook.
        sizes (Sequence[int]): Sides of the images, in pixels.
        warmup (int): Calls of each before.
    """
    for size in sizes:
        steps = DistilledStep(cfg, report.batch, size)
        steps.step(distilled=True)  # the checks of a first iteration
        parts, tokens = steps.parts()
        runners = dict(
            plain=partial(steps.step, False), fgd=partial(steps.step, True),
            **parts)
        report.cases.append(CostCase(
            size, tokens,
            alternate(runners, report.rounds, warmup, report.clock)))


def print_cost(report: DistillCost) -> None:
    """Print a table for every resolution, and the exponent."""
    console = Console(width=110)
    console.print(f'{report.config}: {report.machine}, {report.threads} '
                  f'threads, {report.clock} time, medians of {report.rounds} '
                  'rounds in turn')
    for case in report.cases:
        console.print(_table(report, case))
    if report.exponent is not None:
        console.print(
            f"exponent of FGD's own time (all but the teacher) against "
            f'tokens: {report.exponent:.2f}, goal <= {GOAL_EXPONENT:.2f}')


def _table(report: DistillCost, case: CostCase) -> Table:
    table = new_table(
        f'Batch {report.batch}, {case.size} x {case.size}, {case.tokens:g} '
        'tokens', '', 'ms', 'over the plain step', 'goal')
    rows = {title: case.median(name) for name, title in TITLES.items()}
    rows['the rest: gradients of FGD in the student, memory'] = case.rest
    for title, ms in rows.items():
        goal = f'<= {GOAL_RATIO:.2f}' if title == TITLES['fgd'] else ''
        table.add_row(title, f'{ms:.1f}',
                      f'{ms / case.median("plain"):.2f}', goal)
    return table


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        'config', help='path of a config with a FGDistillHook; its weights '
        "and the teacher's are random, which changes no time")
    parser.add_argument('--batch', type=int, default=4, help='default: 4')
    parser.add_argument(
        '--sizes', nargs='+', type=int, default=[224, 448],
        help='sides of the images; from two on the growth is fitted; '
        'default: 224 448')
    parser.add_argument(
        '--rounds', type=int, default=15, help='default: 15')
    parser.add_argument(
        '--warmup', type=int, default=2, help='default: 2')
    parser.add_argument('--threads', type=int, help="default: PyTorch's")
    parser.add_argument(
        '--clock', choices=CLOCKS, default='wall',
        help='wall, or cpu: processor time, all threads added up, for a busy '
        'machine and --threads 1; default: wall')
    parser.add_argument(
        '--work-dir', help='where distill_cost.json goes; default: '
        'work_dirs/<config name>')
    add_overrides(parser)
    return parser.parse_args()


@command
def main() -> None:
    args = parse_args()
    MMLogger.get_current_instance().setLevel('WARNING')
    if min(args.batch, *args.sizes, args.rounds) < 1 or args.warmup < 0:
        raise ValueError('--batch, --sizes and --rounds must be at least '
                         '1, --warmup at least 0')
    if args.threads:
        torch.set_num_threads(args.threads)
    cfg = load_config(args)
    find_hook(cfg)
    check_framework(cfg)
    report = DistillCost(
        Path(args.config).stem, args.batch, torch.get_num_threads(),
        args.rounds, args.clock)
    measure(report, cfg, args.sizes, args.warmup)
    print_cost(report)
    out_dir = Path(cfg.work_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    report.write_json(out_dir / 'distill_cost.json')
    print(f'written: {out_dir}/distill_cost.json')


if __name__ == '__main__':
    main()
