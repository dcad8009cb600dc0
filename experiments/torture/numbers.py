"""Losses and gradients that are no numbers, in trainings that are running."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from mmengine.runner import Runner

from mmqsdt.checkpoints.read import load_state_dict

from .budget import Budget
from .training import SETTINGS, log_of, train

LAYER = 'backbone.stages.2.blocks.0.conv2.norm'
PARAMETER = 'backbone.stages.3.blocks.0.fc1.conv.weight'


def spoil(what: str, iteration: int) -> Callable[[], None]:
    """Spoil one iteration of a training.

    Args:
        what (str): 'layer': an output of LAYER becomes NaN; 'gradient': that
            of PARAMETER becomes inf.
        iteration (int): Iterations done by then.
    """

    def inject() -> None:
        call = Runner.call_hook

        def call_hook(runner, name: str, **kwargs) -> None:
            call(runner, name, **kwargs)
            if name != 'before_train':
                return
            if what == 'layer':

                def to_nan(module, args, output):
                    if runner.iter == iteration and module.training:
                        return output * float('nan')

                runner.model.get_submodule(LAYER).register_forward_hook(
                    to_nan)
            else:
                runner.model.get_parameter(PARAMETER).register_hook(
                    lambda g: g * (float('inf') if runner.iter == iteration
                                   else 1.))

        Runner.call_hook = call_hook

    return inject


def check_spoiled(folder: Path, what: str, policy: str) -> list[str]:
    """Train through a spoiled iteration: what was promised and not kept."""
    work_dir = f'{what}_{policy}'
    code = train(folder, 'epochs', work_dir, '--cfg-options',
                 f'default_hooks.non_finite.policy={policy}',
                 inject=spoil(what, 4))
    log = log_of(folder)
    name = LAYER if what == 'layer' else PARAMETER
    wrong = [] if name in log else [f'{name} is not named: {log[-500:]}']
    if 'iteration 5' not in log or 'Traceback' in log:
        wrong.append('the iteration is not named, or a traceback is shown')
    if code != (policy == 'stop'):
        wrong.append(f'ended with {code}: {log[-500:]}')
    last = 'epoch_1.pth' if policy == 'stop' else SETTINGS['epochs'][2]
    for key, value in load_state_dict(folder / work_dir / last).items():
        if not torch.isfinite(value).all():
            wrong.append(f'{key} in {last} is not finite')
    return wrong


def check_all_spoiled(folder: Path, budget: Budget) -> tuple[int, list[str]]:
    """Check a layer and a gradient under both policies."""
    wrong = []
    for what, policy in budget.each(
            product(('layer', 'gradient'), ('stop', 'skip'))):
        wrong += check_spoiled(folder, what, policy)
    return budget.done, wrong
