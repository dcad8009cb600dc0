import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mmqsdt import FGDLoss
from mmqsdt.distill import LogitDistillLoss, fgd_distance, fgd_loss
from mmqsdt.registry import MODELS


def naive(teacher: Tensor, student: Tensor) -> Tensor:
    """The definition, through N x N matrices."""

    def gram(x: Tensor) -> Tensor:
        g = x @ x.transpose(-2, -1)
        norm = torch.linalg.matrix_norm(g, keepdim=True)
        return g / torch.where(norm > 0, norm, 1.)

    return torch.linalg.matrix_norm(gram(teacher) - gram(student))


def tokens(*shape, dtype=torch.float64) -> Tensor:
    """Like spikes: 0, 1/4, .., 1."""
    return torch.randint(0, 5, shape).to(dtype) / 4


@pytest.mark.parametrize('tokens_, width_t, width_s', [
    (49, 16, 16), (49, 24, 8), (7, 32, 32), (1, 3, 5)])
def test_equals_the_naive_form(tokens_, width_t, width_s):
    teacher = torch.randn(2, 4, tokens_, width_t, dtype=torch.float64).relu()
    student = tokens(2, 4, tokens_, width_s)
    found = fgd_distance(teacher, student)
    expected = naive(teacher, student)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert fgd_loss(teacher, student) == found.mean()


def test_float32_is_near_float64():
    teacher, student = torch.randn(2, 4, 196, 32).relu(), tokens(2, 4, 196, 32)
    found = fgd_distance(teacher, student.float())
    assert found.dtype == torch.float32
    # Distances of about 0.4, from a difference of sums of 6272 products.
    torch.testing.assert_close(
        found.double(), naive(teacher.double(), student), rtol=0, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    teacher, student = tokens(2, 1, 4, 49, 16)  # exact in half precision
    expected = fgd_distance(teacher.float(), student.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = fgd_distance(teacher.to(dtype), student.to(dtype))
    assert torch.equal(found, expected)


@pytest.mark.parametrize('width', [4, 6])
def test_gradients(width):
    teacher = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    student = torch.rand(2, 2, 5, width, dtype=torch.float64,
                         requires_grad=True)
    assert torch.autograd.gradcheck(fgd_loss, (teacher, student))


def test_gradients_of_joined_heads_and_averaged_grids():
    teacher = torch.randn(1, 4, 24, 2, dtype=torch.float64)
    student = torch.rand(1, 6, 6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s: fgd_loss(teacher, s, (4, 6), (2, 3)), (student, ))


def test_silent_spikes():
    """A silent side is at distance 1, two silent sides at 0; no NaN."""
    teacher = torch.rand(1, 3, 9, 4)
    student = torch.rand(1, 3, 9, 4)
    student[:, 0] = 0
    teacher[:, 1] = 0
    teacher[:, 2], student[:, 2] = 0, 0
    student.requires_grad_()
    found = fgd_distance(teacher, student)
    assert found.tolist() == [[1., 1., 0.]]
    found.sum().backward()
    assert not student.grad.any()


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('side', [0, 1])
def test_what_is_not_finite_is_not_near(value, side):
    both = torch.rand(2, 1, 3, 9, 4)
    both[side, 0, 1, 2, 3] = value
    assert fgd_distance(*both).isnan().tolist() == [[False, True, False]]


@pytest.mark.parametrize('scale', [1., 3., 1e-12, 1e12])
def test_the_same_tokens_at_any_scale_are_at_distance_zero(scale):
    teacher = torch.rand(2, 3, 50, 8)
    student = (teacher * scale).requires_grad_()
    found = fgd_distance(teacher, student)
    assert found.eq(0).all()
    found.sum().backward()
    assert student.grad.isfinite().all()


def test_neither_order_of_channels_nor_scale_matters_but_order_of_tokens():
    teacher, student = torch.rand(2, 1, 3, 50, 8, dtype=torch.float64)
    expected = fgd_distance(teacher, student)
    for same in (student.flip(-1), student * 7, -student):
        torch.testing.assert_close(fgd_distance(teacher, same), expected)
    moved = fgd_distance(teacher, student.flip(-2))
    assert (moved - expected).abs().min() > 1e-4


def test_different_heads_are_joined():
    teacher, student = tokens(2, 6, 9, 4), tokens(2, 4, 9, 4)
    # gcd(6, 4) = 2: three heads of the teacher and two of the student join.
    joined_t = torch.cat([teacher[:, 0::3], teacher[:, 1::3],
                          teacher[:, 2::3]], -1)
    joined_s = torch.cat([student[:, 0::2], student[:, 1::2]], -1)
    found = fgd_distance(teacher, student)
    assert found.shape == (2, 2)
    torch.testing.assert_close(found, naive(joined_t, joined_s))


def test_the_finer_grid_is_averaged_down():
    coarse = tokens(2, 3, 4, 8)  # 2 x 2
    fine = coarse.unflatten(2, (2, 2)).repeat_interleave(2, 2) \
        .repeat_interleave(3, 3).flatten(2, 3)  # 4 x 6
    other = tokens(2, 3, 4, 8)
    expected = fgd_distance(coarse, other)
    for found in (fgd_distance(fine, other, (4, 6), (2, 2)),
                  fgd_distance(other, fine, (2, 2), (4, 6)).clone()):
        torch.testing.assert_close(found, expected)
    # Each side is brought to the smaller of the two.
    assert fgd_distance(fine, tokens(2, 3, 8, 8), (4, 6), (8, 1)).isfinite() \
        .all()


@pytest.mark.parametrize('teacher, student, grids, message', [
    ((2, 3, 4, 8), (2, 3, 9, 8), (), 'both grids'),
    ((2, 3, 4, 8), (2, 3, 9, 8), ((2, 2), None), 'both grids'),
    ((2, 3, 4, 8), (2, 3, 9, 8), ((2, 3), (3, 3)), 'does not hold 4'),
    ((2, 4, 8), (2, 4, 8), (), r'\(B, heads, N, d\)'),
    ((2, 3, 4, 8), (1, 3, 4, 8), (), 'of one B'),
])
def test_what_cannot_be_compared_is_refused(teacher, student, grids, message):
    with pytest.raises(ValueError, match=message):
        fgd_loss(torch.rand(teacher), torch.rand(student), *grids)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made."""
    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in (out if isinstance(out, (list, tuple)) else [out]):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def cost(side: int) -> tuple[int, int]:
    """Operations and largest tensor of a training step."""
    n, d = side**2, 16
    teacher = torch.rand(1, 2, n, d)
    student = torch.rand(1, 2, n, d, requires_grad=True)
    with FlopCounterMode(display=False) as flops, Largest() as largest:
        fgd_loss(teacher, student).backward()
    return flops.get_total_flops(), largest.elements


def test_cost_is_linear_in_the_tokens():
    flops, elements = cost(16)
    flops_double, elements_double = cost(32)  # twice the resolution
    assert elements == 2 * 256 * 16  # nothing larger than the input
    assert elements_double == 4 * elements
    assert flops_double == 4 * flops


def layers(count: int, heads: int = 2, n: int = 9, d: int = 4) -> list[dict]:
    return [{x: tokens(2, heads, n, d) for x in 'qkv'} for _ in range(count)]


def test_module_weighs_tensors_and_layers():
    teacher, student = layers(2), layers(2)
    one = [{x: fgd_loss(t[x], s[x]) for x in 'qkv'}
           for t, s in zip(teacher, student)]
    plain = MODELS.build(dict(type='mmqsdt.FGDLoss'))
    torch.testing.assert_close(
        plain(teacher, student), sum(sum(x.values()) for x in one) / 6)
    weighted = FGDLoss(3., dict(q=2., v=0.5), layer_weights=(1., 4.))
    expected = 3 * (2 * one[0]['q'] + 0.5 * one[0]['v'] + 8 * one[1]['q'] +
                    2 * one[1]['v']) / 4
    torch.testing.assert_close(weighted(teacher, student), expected)


def test_module_refuses_other_depths_and_grids():
    with pytest.raises(ValueError, match='teacher has 2 .* the student 3'):
        FGDLoss()(layers(2), layers(3))
    with pytest.raises(ValueError, match='1 layer_weights for 2'):
        FGDLoss(layer_weights=(1., ))(layers(2), layers(2))
    grids = [(3, 3)], [(2, 2)]
    teacher, student = layers(1), layers(1, n=4)
    with pytest.raises(ValueError, match='3x3 .* 2x2: .* resample=True'):
        FGDLoss()(teacher, student, *grids)
    expected = sum(
        fgd_loss(teacher[0][x], student[0][x], (3, 3), (2, 2)) for x in 'qkv')
    found = FGDLoss(resample=True)(teacher, student, *grids)
    torch.testing.assert_close(found, expected / 3)


@pytest.mark.parametrize('kwargs', [
    dict(tensor_weights=dict(x=1.)), dict(tensor_weights=dict()),
    dict(loss_weight=-1.), dict(layer_weights=(1., -2.))])
def test_module_refuses_arguments_out_of_range(kwargs):
    with pytest.raises(ValueError, match='tensor_weights|negative'):
        FGDLoss(**kwargs)


def test_logit_loss():
    student = torch.randn(4, 10)
    teacher = torch.randn(4, 10)
    hard = LogitDistillLoss('hard', loss_weight=2.)
    label = teacher.argmax(1)
    assert hard(student, teacher) == 2 * torch.nn.functional.cross_entropy(
        student, label)
    soft = LogitDistillLoss(temperature=2.)
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    torch.testing.assert_close(
        soft(student, teacher), 4 * (p * (p / q).log()).sum(1).mean())
    # log-softmax of the same logits: the difference is exactly 0
    assert soft(student, student) == 0
    for kwargs in (dict(kind='firm'), dict(temperature=0.)):
        with pytest.raises(ValueError, match='kind|temperature'):
            LogitDistillLoss(**kwargs)
