"""Losses of distillation: fine-grained (FGD) on q, k, v, and on logits."""

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS

Grid = tuple[int, int]


def fgd_distance(teacher: Tensor,
                 student: Tensor,
                 teacher_grid: Grid | None = None,
                 student_grid: Grid | None = None) -> Tensor:
    r"""Measure the distance of the Gram matrices of two sets of tokens.

    .. math::

        G_X &= X X^T / \lVert X X^T \rVert_F \\
        \lVert G_T - G_S \rVert_F^2 &= 2 - 2 \frac{\lVert X_T^T X_S
        \rVert_F^2}{\lVert X_T^T X_T \rVert_F \lVert X_S^T X_S \rVert_F}

    Only d x d products are computed, so the cost is linear in the number of
    tokens N. If all tokens of a side are zero ("silent"), its G is zero: the
    distance is then 1, or 0 if both sides are silent, and a silent side gets
    no gradient. G does not depend on the scale of X.

    Args:
        teacher (Tensor): (B, heads, N, d).
        student (Tensor): (B, heads', N', d'). Widths d and d' are free. If
            the heads differ, neighbors are joined to as many heads as
            divide both counts. If the grids differ, the finer one is
            averaged down, side by side.
        teacher_grid (tuple, optional): (H, W) of the N tokens, row by row;
            only needed where the grids differ.
        student_grid (tuple, optional): Likewise of the N' tokens.

    Returns:
        Tensor: (B, joint heads), each in [0, sqrt(2)]; float64 for float64
        inputs, else float32, also under autocast. Below sqrt(4 eps) of that
        type (0.0007 in float32) a distance is mere rounding and set to 0.
        It is NaN if a token is not finite.

    Raises:
        ValueError: For shapes that cannot be compared.

    Source: Q-ViT (arXiv 2210.06707), eq. 10-11, extended by v as in
    QSD-Transformer (arXiv 2501.13492).
    """
    if teacher.dim() != 4 or student.dim() != 4 \
            or len(teacher) != len(student):
        raise ValueError('teacher and student must be (B, heads, N, d) of '
                         f'one B, got {tuple(teacher.shape)} and '
                         f'{tuple(student.shape)}')
    with torch.autocast(student.device.type, enabled=False):
        teacher, student = _at_least_float32(teacher, student)
        teacher, student = _match_grids(teacher, student, teacher_grid,
                                        student_grid)
        heads = gcd(teacher.shape[1], student.shape[1])
        teacher = _unit_range(_join_heads(teacher, heads))
        student = _unit_range(_join_heads(student, heads))

        tt = _square_norm(teacher, teacher)  # (B, heads)
        ss = _square_norm(student, student)
        ts = _square_norm(teacher, student)
        both = (tt > 0) & (ss > 0)
        # The root of the product, not a product of roots: so the cosine is
        # exactly 1 if both are the same.
        cosine = ts / torch.where(both, tt * ss, 1.).sqrt()
        squared = (tt > 0).to(ts) + (ss > 0).to(ts) - 2 * cosine
        # The square root has an infinite gradient at 0; the inner where keeps
        # it out, for a gradient of 0. A NaN remains a NaN.
        apart = ~(squared <= 4 * torch.finfo(squared.dtype).eps)
        return torch.where(apart, torch.where(apart, squared, 1.).sqrt(), 0.)


def fgd_loss(teacher: Tensor,
             student: Tensor,
             teacher_grid: Grid | None = None,
             student_grid: Grid | None = None) -> Tensor:
    """Average :func:`fgd_distance` over batch and heads.

    Example::

        >>> q_teacher, q_student = torch.rand(2, 1, 8, 196, 32)
        >>> loss = fgd_loss(q_teacher, q_student)
    """
    return fgd_distance(teacher, student, teacher_grid, student_grid).mean()


def _at_least_float32(*tensors: Tensor) -> list[Tensor]:
    wide = torch.float32
    for x in tensors:
        wide = torch.promote_types(wide, x.dtype)
    return [x.to(wide) for x in tensors]


def _join_heads(x: Tensor, heads: int) -> Tensor:
    """Join neighbors: (B, h, N, d) -> (B, heads, N, h / heads * d)."""
    if x.shape[1] == heads:
        return x
    x = x.unflatten(1, (heads, -1))  # (B, heads, h / heads, N, d)
    return x.transpose(2, 3).flatten(3)


def _unit_range(x: Tensor) -> Tensor:
    """Scale each head to a largest magnitude of 1, so that x^4 is finite.

    The scale changes neither the distance nor its gradient.
    """
    largest = x.detach().abs().amax((-2, -1), keepdim=True)
    return x / torch.where(largest > 0, largest, 1.)


def _square_norm(x: Tensor, y: Tensor) -> Tensor:
    """Compute ||X^T Y||_F^2 by a d x d product, (B, heads)."""
    return (x.transpose(-2, -1) @ y).square().sum((-2, -1))


def _match_grids(teacher: Tensor, student: Tensor, teacher_grid: Grid | None,
                 student_grid: Grid | None) -> tuple[Tensor, Tensor]:
    for x, grid in ((teacher, teacher_grid), (student, student_grid)):
        if grid is not None and grid[0] * grid[1] != x.shape[2]:
            raise ValueError(f'a grid of {grid[0]}x{grid[1]} does not hold '
                             f'{x.shape[2]} tokens')
    if None in (teacher_grid, student_grid):
        if teacher.shape[2] != student.shape[2]:
            raise ValueError(
                f'{teacher.shape[2]} tokens of the teacher and '
                f'{student.shape[2]} of the student can only be compared '
                'when both grids (H, W) are given')
        return teacher, student
    common = tuple(map(min, teacher_grid, student_grid))
    return (_average_down(teacher, teacher_grid, common),
            _average_down(student, student_grid, common))


def _average_down(x: Tensor, grid: Grid, to: Grid) -> Tensor:
    """Average tokens: (B, heads, H * W, d) -> (B, heads, H' * W', d)."""
    if tuple(grid) == to:
        return x
    batch, heads, _, width = x.shape
    x = x.transpose(2, 3).reshape(batch, heads * width, *grid)
    x = F.adaptive_avg_pool2d(x, to)
    return x.reshape(batch, heads, width, -1).transpose(2, 3)


@MODELS.register_module()
class FGDLoss(nn.Module):
    r"""Fine-grained distillation of q, k, v of all attention layers.

    .. math::

        L = \lambda \, \underset{l, x}{mean} \; w_l w_x \,
        \underset{b, h}{mean} \lVert G_{T,lxbh} - G_{S,lxbh} \rVert_F

    over layers l, tensors x in {q, k, v}, images b and heads h; see
    :func:`fgd_distance`. These are plain means: weights are not normalized,
    so a layer or tensor of weight 0 still counts in the number averaged over.

    Args:
        loss_weight (float): :math:`\lambda`. Defaults to 1.
        tensor_weights (dict): :math:`w_x`; a tensor that is not named has 0.
            Defaults to ``dict(q=1., k=1., v=1.)``.
        layer_weights (Sequence[float], optional): :math:`w_l`, from the
            first layer to the last; None is 1 for all.
        resample (bool): Whether grids of different size are compared, the
            finer averaged down to the coarser; False refuses them.
            Defaults to False.

    Raises:
        ValueError: For arguments or layers that do not fit.
    """

    def __init__(self,
                 loss_weight: float = 1.,
                 tensor_weights: dict[str, float] = dict(q=1., k=1., v=1.),
                 layer_weights: tuple[float, ...] | None = None,
                 resample: bool = False) -> None:
        super().__init__()
        if not tensor_weights or not set(tensor_weights) <= set('qkv'):
            raise ValueError('tensor_weights must name q, k or v, got '
                             f'{sorted(tensor_weights)}')
        weights = (loss_weight, *tensor_weights.values(),
                   *(layer_weights or ()))
        if min(weights) < 0:
            raise ValueError(f'weights must not be negative, got {weights}')
        self.loss_weight = loss_weight
        self.tensor_weights = dict(tensor_weights)
        self.layer_weights = layer_weights
        self.resample = resample

    def check(self,
              teacher_grids: list[Grid | None],
              student_grids: list[Grid | None]) -> None:
        """Check that the layers of two networks can be compared.

        Args:
            teacher_grids (list): (H, W) of every layer, or None if unknown.
            student_grids (list): Likewise.

        Raises:
            ValueError: If their number or their grids differ.
        """
        count = len(student_grids)
        if len(teacher_grids) != count:
            raise ValueError(
                f'the teacher has {len(teacher_grids)} attention layers, the '
                f'student {count}: use an equally deep teacher, or name the '
                'layers to be paired in teacher_taps and student_taps')
        if self.layer_weights is not None \
                and len(self.layer_weights) != count:
            raise ValueError(f'{len(self.layer_weights)} layer_weights for '
                             f'{count} layers')
        for i, (teacher, student) in enumerate(
                zip(teacher_grids, student_grids)):
            if self.resample or None in (teacher, student):
                continue
            if tuple(teacher) != tuple(student):
                raise ValueError(
                    f'layer {i} of the teacher sees a grid of '
                    f'{teacher[0]}x{teacher[1]} tokens, that of the student '
                    f'{student[0]}x{student[1]}: give both the same strides '
                    '(stage4_stride), or set resample=True in FGDLoss')

    def forward(self,
                teacher: list[dict[str, Tensor]],
                student: list[dict[str, Tensor]],
                teacher_grids: list[Grid | None] | None = None,
                student_grids: list[Grid | None] | None = None) -> Tensor:
        """Compare what two networks computed from the same images.

        Args:
            teacher (list): q, k, v, each (B, heads, N, d), of every layer.
            student (list): Likewise.
            teacher_grids (list, optional): (H, W) of the tokens of every
                layer, where grids may differ.
            student_grids (list, optional): Likewise.

        Returns:
            Tensor: Scalar.
        """
        teacher_grids = teacher_grids or [None] * len(teacher)
        student_grids = student_grids or [None] * len(student)
        self.check(teacher_grids, student_grids)
        layer_weights = self.layer_weights or [1.] * len(student)
        terms = [
            layer_weight * weight *
            fgd_loss(of_teacher[name], of_student[name], *grids)
            for layer_weight, of_teacher, of_student, *grids in zip(
                layer_weights, teacher, student, teacher_grids,
                student_grids)
            for name, weight in self.tensor_weights.items()
        ]
        return self.loss_weight * torch.stack(terms).mean()


@MODELS.register_module()
class LogitDistillLoss(nn.Module):
    r"""Distillation of a classifier's logits.

    .. math::

        soft: \quad L &= \lambda \tau^2 \, KL(softmax(z_T / \tau) \,\Vert\,
        softmax(z_S / \tau)) \\
        hard: \quad L &= \lambda \, CE(z_S, argmax \, z_T)

    averaged over the batch.

    Args:
        kind (str): 'soft' or 'hard'. Defaults to 'soft'.
        temperature (float): :math:`\tau` of the soft kind. Defaults to 1.
        loss_weight (float): :math:`\lambda`. Defaults to 1.

    Raises:
        ValueError: For arguments out of range.

    Source: arXiv 1503.02531 (soft); DeiT, arXiv 2012.12877 (hard).
    """

    def __init__(self,
                 kind: str = 'soft',
                 temperature: float = 1.,
                 loss_weight: float = 1.) -> None:
        super().__init__()
        if kind not in ('soft', 'hard'):
            raise ValueError(f"kind must be 'soft' or 'hard', got {kind!r}")
        if temperature <= 0:
            raise ValueError(f'temperature must be positive, got '
                             f'{temperature}')
        self.kind = kind
        self.temperature = temperature
        self.loss_weight = loss_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compare logits, (B, classes) each; a scalar."""
        student, teacher = student.float(), teacher.float()
        if self.kind == 'hard':
            loss = F.cross_entropy(student, teacher.argmax(1))
        else:
            t = self.temperature
            loss = t**2 * F.kl_div(
                F.log_softmax(student / t, 1),
                F.log_softmax(teacher / t, 1),
                reduction='batchmean',
                log_target=True)
        return self.loss_weight * loss
