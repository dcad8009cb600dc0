"""Batches that are too small to learn from."""

from logging import WARNING

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.data import BatchSampler, DataLoader

from ...registry import HOOKS
from ..batches import batch_size, length, smallest_batch


@HOOKS.register_module()
class SmallBatchHook(Hook):
    """Refuse batches that a norm cannot learn from, before the first step.

    In training a batch norm needs two values a channel. Where maps have
    shrunk to 1x1, a batch of one image has only one, and PyTorch ends the
    training: with ``batch_size=1`` at once, and if only the last batch of an
    epoch is that small, after all the others. The first iteration shows at
    which norms this would be.

    Images of other sizes may bring such a batch about later. Then the norm
    uses its running statistics, as in evaluation, and one line says so.
    A compiled model is not watched.

    Raises:
        ValueError: In the first iteration.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._handles: list = []

    def before_train(self, runner) -> None:
        """Watch the norms."""
        self._loader = runner.train_dataloader
        self._size = self._smallest = 0  # unknown
        if isinstance(self._loader, DataLoader):
            self._size = batch_size(self._loader)
            self._smallest = smallest_batch(self._loader)
        self._first, self._warned = True, False
        self._paused: set[nn.Module] = set()
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        for name, norm in model.named_modules():
            # Synchronized ones have the values of all processes.
            alone = not isinstance(norm, nn.SyncBatchNorm) or \
                runner.world_size == 1
            if isinstance(norm, (_BatchNorm, _InstanceNorm)) and alone:
                self._watch(name, norm)

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        """Every norm has shown what it reads."""
        self._first = False

    def after_train(self, runner) -> None:
        """Take everything off the model."""
        while self._handles:
            self._handles.pop().remove()

    def _watch(self, name: str, norm: nn.Module) -> None:
        # Functions, not methods: a copy of the model shall not copy the hook.
        def look(norm: nn.Module, args: tuple) -> None:
            if norm.training and not torch.compiler.is_compiling():
                self._look(name, norm, args[0])

        def restore(norm: nn.Module, args: tuple, output: Tensor) -> None:
            if norm in paused:
                paused.remove(norm)
                norm.train()

        paused = self._paused
        self._handles += [norm.register_forward_pre_hook(look),
                          norm.register_forward_hook(restore)]

    def _look(self, name: str, norm: nn.Module, x: Tensor) -> None:
        if isinstance(norm, _InstanceNorm):
            if x[:1, :1].numel() == 1:
                raise ValueError(
                    f'{name} is an instance norm, and its maps are 1x1: it '
                    'has no other pixel to take a mean and a variance of. '
                    'Use larger images, or another norm')
            return
        values = x.numel() // x.shape[1]
        # One value for each image, however many there are.
        shrunk = values == len(x) == self._size
        if self._first and (values == 1 or shrunk and self._smallest == 1):
            raise ValueError(self._refusal(name))
        if values != 1:
            return
        if norm.running_mean is None:
            raise ValueError(self._refusal(name))
        norm.eval()
        self._paused.add(norm)
        if not self._warned:
            self._warned = True
            print_log(
                f'a batch has one value a channel at {name}: too few for a '
                'batch norm to learn from, so that it uses its running '
                'statistics. Larger images or batches avoid that',
                logger='current', level=WARNING)

    def _refusal(self, name: str) -> str:
        text = (f'{name} is a batch norm, and its maps are 1x1: of a batch '
                'of one image it would have one value a channel, and cannot '
                'take a variance of that.')
        advice = ('larger images if no global pooling stands before it, or '
                  'other norms: norm_eval=True freezes those of a backbone, '
                  "norm_cfg=dict(type='GN', num_groups=...) is for necks "
                  'and heads')
        if self._size < 2:
            return (f'{text} Use a larger batch (--cfg-options '
                    f'train_dataloader.batch_size=2), {advice}')
        images = length(self._loader)
        text += (f' The last batch of an epoch is one: {images} images in '
                 f'batches of {self._size}.')
        if images == 1:
            return f'{text} Use more images, {advice}'
        batches = self._loader.batch_sampler
        plain = type(getattr(batches, 'batches', batches)) is BatchSampler
        key = '' if plain else 'batch_sampler.'
        other = next(size for size in range(self._size + 1, images + 2)
                     if images % size != 1)
        return (f'{text} Leave it out (--cfg-options train_dataloader.{key}'
                f'drop_last=True), or use another batch size (train_'
                f'dataloader.batch_size={other}), {advice}')
