"""Distillation as one entry in custom_hooks."""

from inspect import signature

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..registry import HOOKS
from ..utils.build import unwrap
from .recorder import Recorder, Recording, Tap, find_taps, record
from .teacher import build_teacher, check_teacher


@HOOKS.register_module()
class FGDistillHook(Hook):
    """Add the FGD loss against a teacher to the losses of any model.

    The teacher is built when training starts, frozen and in eval mode. It
    sees the same preprocessed batch as the student. Only this hook holds it:
    it is in no checkpoint, optimizer, weight average or DDP wrapper. The
    loss is added to the losses that the student returns in its 'loss' mode,
    so mixed precision, gradient accumulation and logging work as for others.

    Args:
        teacher (str | dict): Path of the teacher's config, of any of the
            three frameworks, or the dict of a model or backbone.
        checkpoint (str, optional): The teacher's weights; None if its model
            has an init_cfg of type Pretrained.
        loss (dict): Config of FGDLoss, or of a class derived from it.
            Defaults to ``dict(type='mmqsdt.FGDLoss')``.
        student_taps (dict, optional): Modules that give q, k, v, see
            :func:`find_taps`. None for a QSDTransformer.
        teacher_taps (dict, optional): Likewise.
        logit_loss (dict, optional): For classifiers, a loss on the logits
            too: ``dict(type='mmqsdt.LogitDistillLoss')``, or any loss of
            MMPretrain, which gets the teacher's class as label, or its
            probabilities if it has ``use_soft``. Defaults to None.
        start (int): First iteration with the loss. Defaults to 0.
        end (int, optional): First iteration without the loss again; None
            keeps it to the end.
        interval (int): The loss is added in every interval-th iteration.
            Defaults to 1.

    Raises:
        FileNotFoundError: When training starts, if there is no such config
            or checkpoint.
        ValueError: If the arguments are out of range; when training starts,
            if teacher and student do not fit; in the first iteration,
            whatever start is, if their grids or classes do not, or if the
            student's q, k and v take no gradient.
    """

    def __init__(self,
                 teacher: str | dict,
                 checkpoint: str | None = None,
                 loss: dict = dict(type='mmqsdt.FGDLoss'),
                 student_taps: dict | None = None,
                 teacher_taps: dict | None = None,
                 logit_loss: dict | None = None,
                 start: int = 0,
                 end: int | None = None,
                 interval: int = 1) -> None:
        if start < 0 or interval < 1 or (end is not None and end <= start):
            raise ValueError('expected 0 <= start < end and interval >= 1, '
                             f'got start={start}, end={end}, '
                             f'interval={interval}')
        self.teacher_cfg = teacher
        self.checkpoint = checkpoint
        self.loss_cfg = loss
        self.student_taps = student_taps
        self.teacher_taps = teacher_taps
        self.logit_loss_cfg = logit_loss
        self.start = start
        self.end = end
        self.interval = interval
        self._close: list = []

    def before_train(self, runner) -> None:
        """Build the teacher and listen to both networks."""
        self.after_train(runner)  # of a training that was interrupted
        student = unwrap(runner.model)
        teacher = build_teacher(self.teacher_cfg, self.checkpoint)
        check_teacher(teacher, student)
        self.loss = MODELS.build(self.loss_cfg)
        taps = find_taps(student, self.student_taps, 'student')
        teacher_taps = find_taps(teacher, self.teacher_taps, 'teacher')
        self._check_taps(teacher_taps, taps)
        self.logit_loss = None
        if self.logit_loss_cfg is not None:
            self.logit_loss = MODELS.build(self.logit_loss_cfg)
            self._check_heads(teacher, student)

        device = next(student.parameters()).device
        self.teacher = teacher.to(device)
        if _is_channels_last(student):
            teacher.to(memory_format=torch.channels_last)
        self.loss.to(device)
        self.recorder = Recorder(student, taps, 'student')
        self._teacher_recorder = Recorder(teacher, teacher_taps, 'teacher')
        self._run_backbone_only = self.logit_loss is None and all(
            path.startswith('backbone.') for tap in teacher_taps
            for path in tap.paths.values())
        self._signature = signature(student.forward)
        self._close = [
            self.recorder.close,
            self._teacher_recorder.close,
            student.register_forward_pre_hook(
                self._before_forward, with_kwargs=True).remove,
            student.register_forward_hook(
                self._after_forward, with_kwargs=True).remove,
        ]
        if self.logit_loss is not None:
            self._close += [
                student.head.register_forward_hook(
                    self._keep_logits('student', self.recorder)).remove,
                teacher.head.register_forward_hook(
                    self._keep_logits('teacher',
                                      self._teacher_recorder)).remove
            ]
        self._logits: dict[str, Tensor] = {}
        self._active = False
        self._checked = False
        print_log(
            f'FGD: {len(taps)} layers of {type(student).__name__} learn from '
            f'{type(teacher).__name__}, the first from '
            f'{next(iter(teacher_taps[0].paths.values()))}',
            logger='current')

    def _check_taps(self, teacher: list[Tap], student: list[Tap]) -> None:
        for owner, taps in (('teacher', teacher), ('student', student)):
            given = set(''.join(taps[0].paths))
            wanted = set(self.loss.tensor_weights)
            if not wanted <= given:
                raise ValueError(
                    f'{owner}_taps have no {sorted(wanted - given)}, which '
                    'tensor_weights of the loss names')
        # Grids are known when the first images come.
        self.loss.check([None] * len(teacher), [None] * len(student))

    @staticmethod
    def _check_heads(teacher: nn.Module, student: nn.Module) -> None:
        for owner, model in (('teacher', teacher), ('student', student)):
            if not isinstance(getattr(model, 'head', None), nn.Module):
                raise ValueError(
                    'logit_loss is for classifiers: the '
                    f'{owner} ({type(model).__name__}) has no head')

    def _keep_logits(self, owner: str, recorder: Recorder):

        def keep(module, args, output):
            if recorder.recording:
                self._logits[owner] = output

        return keep

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Decide whether this iteration has the loss."""
        self._wanted = self.start <= runner.iter and \
            (self.end is None or runner.iter < self.end) and \
            (runner.iter - self.start) % self.interval == 0
        # Find out in the first iteration whether it will work.
        self._active = self._wanted or not self._checked

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None) -> None:
        """Leave other forward passes alone."""
        self._active = False

    def _before_forward(self, model, args, kwargs) -> None:
        if self._active and self._mode(args, kwargs) == 'loss':
            self.recorder.start()

    def _after_forward(self, model, args, kwargs, losses: dict) -> dict:
        if not self.recorder.recording:
            return losses
        arguments = self._signature.bind(*args, **kwargs).arguments
        images = next(iter(arguments.values()))
        if not isinstance(images, Tensor):
            raise ValueError('the student must get its images as one tensor, '
                             f'got {type(images).__name__}')
        student = self.recorder.stop(len(images))
        teacher = self.run_teacher(images, arguments.get('data_samples'))
        if not self._checked:
            self.loss.check(teacher.grids, student.grids)
            self._check_gradients(student)
        added = dict(
            loss_fgd=self.loss(teacher.tensors, student.tensors,
                               teacher.grids, student.grids))
        if self.logit_loss is not None:
            added['loss_logit'] = self._compare_logits()
        self._checked = True
        if not self._wanted:
            return losses
        # Another hook, of another teacher, may have added its own.
        return {**losses, **{
            name: loss + losses.get(name, 0.)
            for name, loss in added.items()
        }}

    @staticmethod
    def _check_gradients(student: Recording) -> None:
        if torch.is_grad_enabled() and not any(
                x.requires_grad for layer in student.tensors
                for x in layer.values()):
            raise ValueError(
                'nothing would learn from the teacher: q, k and v of the '
                'student take no gradient. Their layers are frozen, or '
                'recomputed by a reentrant torch checkpoint (with_cp of '
                'some backbones): switch that off')

    def _mode(self, args, kwargs) -> str | None:
        return self._signature.bind(*args, **kwargs).arguments.get('mode')

    def run_teacher(self, images: Tensor,
                    data_samples: list | None) -> Recording:
        """Run the teacher on images that are preprocessed."""
        if self._run_backbone_only:
            return record(self.teacher.backbone, self._teacher_recorder,
                          images)
        if not hasattr(self.teacher, 'data_preprocessor'):  # a backbone
            return record(self.teacher, self._teacher_recorder, images)
        return record(self.teacher, self._teacher_recorder, images,
                      data_samples, 'tensor')

    def _compare_logits(self) -> Tensor:
        student, teacher = self._logits['student'], self._logits['teacher']
        self._logits.clear()
        for owner, x in (('student', student), ('teacher', teacher)):
            if not isinstance(x, Tensor):
                raise ValueError(
                    f'logit_loss needs a head that gives one tensor; that of '
                    f'the {owner} gives {type(x).__name__}')
        if student.shape != teacher.shape:
            raise ValueError(
                f'logit_loss needs the same classes: the teacher has '
                f'{teacher.shape[1]}, the student {student.shape[1]}')
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = student.float(), teacher.float()
            if hasattr(self.logit_loss, 'kind'):  # ours
                return self.logit_loss(student, teacher)
            if getattr(self.logit_loss, 'use_soft', False):
                return self.logit_loss(student, teacher.softmax(1))
            return self.logit_loss(student, teacher.argmax(1))

    def after_train(self, runner) -> None:
        """Take everything off the student; drop the teacher."""
        while self._close:
            self._close.pop()()
        self.teacher = None


def _is_channels_last(model: nn.Module) -> bool:
    return any(
        p.is_contiguous(memory_format=torch.channels_last)
        and not p.is_contiguous() for p in model.parameters() if p.dim() == 4)
