"""Find the layer behind a loss or gradient that is not finite."""

from contextlib import contextmanager, suppress

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ...registry import HOOKS
from ...utils.build import unwrap

POLICIES = ('stop', 'skip')


class NonFiniteError(ValueError):
    """A loss or gradient is not finite; the message names the layer."""


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stop, or skip the batch, before a NaN or inf reaches the weights.

    The loss is checked before the backward pass, the gradients before the
    optimizer's step (by their norm, which clip_grad computes anyway). If one
    is not finite, the batch is run once more, and the first layer whose
    output is not finite is named.

    Args:
        policy (str): 'stop' ends the training with an error; weights and
            checkpoints are as before the batch. 'skip' leaves the batch
            out, restores the running averages of the norms, and logs it.
            Defaults to 'stop'.
        max_skips (int): With 'skip', the most batches skipped in a row
            before the training stops after all. Defaults to 10.

    Raises:
        ValueError: For another policy; NonFiniteError while training.
    """

    priority = 'VERY_HIGH'

    def __init__(self, policy: str = 'stop', max_skips: int = 10) -> None:
        if policy not in POLICIES or max_skips < 1:
            raise ValueError(f'policy must be one of {POLICIES} and max_skips '
                             f'at least 1, got {policy!r} and {max_skips}')
        self.policy = policy
        self.max_skips = max_skips
        self.skipped = self._in_a_row = 0

    def before_train(self, runner) -> None:
        """Check every loss before the optimizer sees it."""
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            runner.logger.warning('NonFiniteHook watches one optimizer, not '
                                  'several')
            return
        self._runner = runner
        self._wrapper = runner.optim_wrapper
        self._update = self._wrapper.update_params
        self._wrapper.update_params = self._update_if_finite
        self._handle = self._wrapper.optimizer.register_step_pre_hook(
            self._check_gradients)
        model = unwrap(runner.model)
        self._model = model
        self._buffers = [b for b in model.buffers() if b.is_floating_point()
                         and self.policy == 'skip']
        self._copies = [b.clone() for b in self._buffers]

    def after_train(self, runner) -> None:
        """Take everything off again."""
        if hasattr(self, '_handle'):
            self._handle.remove()
            del self._wrapper.update_params

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Keep the batch, and what 'skip' would have to restore."""
        self._batch = data_batch
        if self._buffers:
            torch._foreach_copy_(self._copies, self._buffers)

    def _update_if_finite(self, loss: Tensor, *args, **kwargs) -> None:
        if self._all_finite(torch.isfinite(loss.detach()).all()):
            before = self.skipped
            self._update(loss, *args, **kwargs)
            if self.skipped == before:  # the gradients are finite too
                self._in_a_row = 0
            return
        self._react('the loss', self._find_layer())

    def _check_gradients(self, optimizer, args, kwargs) -> None:
        parameters = [
            p for group in optimizer.param_groups for p in group['params']
            if p.grad is not None
        ]
        if not parameters:
            return
        name = f'train/{getattr(self._wrapper, "grad_name", None)}'
        scalars = self._wrapper.message_hub.log_scalars
        if self._wrapper.clip_grad_kwargs and name in scalars:
            finite = abs(scalars[name].current()) < float('inf')
        else:
            norms = torch._foreach_norm([p.grad for p in parameters])
            finite = bool(torch.isfinite(torch.stack(norms)).all())
        # DDP has averaged the gradients: all processes have the same ones.
        if finite:
            return
        broken = {id(p) for p in parameters
                  if not torch.isfinite(p.grad).all()}
        names = [n for n, p in self._model.named_parameters()
                 if id(p) in broken]
        where = f'the gradient of {names[-1]}' if names else 'their norm alone'
        # Without gradients the step changes nothing.
        optimizer.zero_grad(set_to_none=True)
        self._react('a gradient', f'{len(names)} of {len(parameters)} '
                    f'gradients; the first in the backward pass: {where}')

    def _all_finite(self, finite: Tensor) -> bool:
        """Tell whether it is finite in every process, so that all agree."""
        if self._runner.world_size > 1:
            flag = finite.to(torch.int32)
            all_reduce(flag, 'min')
            return bool(flag)
        return bool(finite)

    def _react(self, what: str, where: str) -> None:
        runner = self._runner
        text = (f'iteration {runner.iter + 1}: {what} is not finite. {where}.'
                f'{self._files()}')
        self.skipped += 1
        self._in_a_row += 1
        if self.policy == 'stop':
            raise NonFiniteError(
                f'{text}\n  The weights are those before this batch; the '
                'last checkpoint is good: lower the learning rate, or clip '
                'the gradients, and continue with --resume. To leave out '
                'such batches instead: --cfg-options '
                'default_hooks.non_finite.policy=skip')
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._copies)
        if self._in_a_row > self.max_skips:
            raise NonFiniteError(
                f'{text}\n  These were {self._in_a_row} batches in a row, so '
                'the cause is not in single batches')
        runner.logger.warning(f'{text} Batch skipped, {self.skipped} so far.')

    def _files(self) -> str:
        with suppress(AttributeError, KeyError, TypeError):
            samples = self._batch['data_samples']
            paths = [str(s.img_path) for s in samples if 'img_path' in s]
            if paths:
                more = f' and {len(paths) - 3} more' if len(paths) > 3 else ''
                return f'\n  Batch: {", ".join(paths[:3])}{more}'
        return ''

    def _find_layer(self) -> str:
        """Run the batch again and name the first output that is broken."""
        model = self._model
        with torch.no_grad(), self._wrapper.optim_context(self._runner.model):
            data = model.data_preprocessor(self._batch, True)
            found: list[str] = []
            broken = [n for n, p in model.named_parameters()
                      if not torch.isfinite(p).all()]
            with _watch(model, found):
                try:
                    losses = model(**data, mode='loss') if isinstance(
                        data, dict) else model(*data, mode='loss')
                except (RuntimeError, ValueError, AssertionError) as error:
                    losses = {'loss': error}  # a layer that cannot go on
        if broken:
            return (f'The weights themselves are not finite, e.g. {broken[0]}'
                    ', since before this batch')
        if isinstance(data, dict) and not _finite(data.get('inputs')):
            return 'The images themselves are not finite'
        if found:
            return f'The first layer whose output is not finite: {found[0]}'
        names = [k for k, v in losses.items() if not _finite(v)] \
            if isinstance(losses, dict) else []
        if names:
            return ('The outputs of all layers are finite, but not the loss: '
                    f'{", ".join(names)}')
        return 'When the batch is run again, everything is finite'


@contextmanager
def _watch(model: nn.Module, found: list[str]):
    """Collect the names of modules whose output is not finite, in order."""

    def watch(name: str):

        def look(module, args, output) -> None:
            if not _finite(output):
                found.append(f'{name} ({type(module).__name__})')

        return look

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules() if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(value) -> bool:
    """Tell whether all tensors in nested lists and dicts are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(
            torch.isfinite(value).all())
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return True
    return all(_finite(each) for each in value)
