"""Refuse batches that are too small for the norms."""

from logging import WARNING

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.data import BatchSampler, DataLoader

from ...registry import HOOKS
from ...utils.build import unwrap
from ..batches import batch_size, length, smallest_batch


@HOOKS.register_module()
class SmallBatchHook(Hook):
    """Refuse batches that a norm cannot learn from, before the first step.

    In training a batch norm needs at least two values per channel. Where maps
    have shrunk to 1x1, a batch of one image has a single value, and PyTorch
    raises an error: at once with ``batch_size=1``, or at the end of the first
    epoch if only its last batch is that small. This hook finds such norms in
    the first iteration.

    Images of other sizes may lead to such a batch later. Then the norm uses
    its running statistics, as in evaluation, and one line is logged. A
    compiled model is not watched.

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
        model = unwrap(runner.model)
        for name, norm in model.named_modules():
            # A synchronized norm reads the values of all processes.
            alone = not isinstance(norm, nn.SyncBatchNorm) or \
                runner.world_size == 1
            if isinstance(norm, (_BatchNorm, _InstanceNorm)) and alone:
                self._watch(name, norm)

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        """Note that every norm has been checked."""
        self._first = False

    def after_train(self, runner) -> None:
        """Take everything off the model."""
        while self._handles:
            self._handles.pop().remove()

    def _watch(self, name: str, norm: nn.Module) -> None:
        # Functions, not methods: copying the model must not copy this hook.
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
                    f'{name} is an instance norm, and its maps are 1x1: one '
                    'pixel has no variance. Use larger images, or another '
                    'norm')
            return
        values = x.numel() // x.shape[1]
        # The maps are 1x1: one value for each image.
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
                f'a batch has one value per channel at {name}, too few for a '
                'batch norm: it uses its running statistics. Larger images '
                'or batches avoid that',
                logger='current', level=WARNING)

    def _refusal(self, name: str) -> str:
        text = (f'{name} is a batch norm, and its maps are 1x1: in a batch '
                'of one image a channel has one value, which has no '
                'variance.')
        advice = ('larger images if no global pooling stands before it, or '
                  'other norms: norm_eval=True freezes those of a backbone, '
                  "norm_cfg=dict(type='GN', num_groups=...) is for necks "
                  'and heads')
        if self._size < 2:
            return (f'{text} Use a larger batch (--cfg-options '
                    f'train_dataloader.batch_size=2), {advice}')
        images = length(self._loader)
        text += (f' The last batch of an epoch has one image: {images} '
                 f'images in batches of {self._size}.')
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
