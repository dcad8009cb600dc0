"""The stand-in against torchvision, mmcv's published cases and gradcheck."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

import mmqsdt  # noqa: F401  installs the stand-in
from mmqsdt.compat.mmcv_ops import NAME, StandIn

pytest.importorskip('torchvision')
import torchvision.ops as tv  # noqa: E402
from mmcv import ops  # noqa: E402

pytestmark = pytest.mark.skipif(
    not isinstance(sys.modules.get(NAME), StandIn),
    reason='mmcv has its own compiled operators')


def boxes(n: int, size: float = 50.) -> torch.Tensor:
    corner = torch.rand(n, 2) * size
    return torch.cat([corner, corner + torch.rand(n, 2) * size / 2 + 1], 1)


# Greedy definitions, written out.


def iou(a, b, offset=0):
    w = min(a[2], b[2]) - max(a[0], b[0]) + offset
    h = min(a[3], b[3]) - max(a[1], b[1]) + offset
    inter = max(w, 0) * max(h, 0)
    area = [(x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)]
    return inter / (sum(area) - inter)


def greedy_nms(dets, scores, threshold, offset):
    order = sorted(range(len(dets)), key=lambda i: -scores[i])
    kept = []
    for i in order:
        if all(iou(dets[i], dets[k], offset) <= threshold for k in kept):
            kept.append(i)
    return kept


# mmcv's published cases of nms, soft-NMS and nms_match.

NMS_BOXES = np.array([[6., 3., 8., 7.], [3., 6., 9., 11.],
                      [3., 7., 10., 12.], [1., 4., 13., 7.]],
                     dtype=np.float32)
NMS_SCORES = np.array([0.6, 0.9, 0.7, 0.2], dtype=np.float32)


def test_nms_published_case():
    dets, kept = ops.nms(NMS_BOXES, NMS_SCORES, iou_threshold=0.3, offset=0)
    assert kept.tolist() == [1, 0, 3]
    assert_close(
        torch.from_numpy(dets),
        torch.tensor([[3., 6., 9., 11., 0.9], [6., 3., 8., 7., 0.6],
                      [1., 4., 13., 7., 0.2]]))


SOFTNMS_BOXES = np.array([[6., 3., 8., 7.], [3., 6., 9., 11.],
                          [3., 7., 10., 12.], [1., 4., 13., 7.]],
                         dtype=np.float32)
SOFTNMS_EXPECTED = {
    'linear': ([[3., 6., 9., 11., 0.9], [6., 3., 8., 7., 0.6],
                [3., 7., 10., 12., 0.29024392],
                [1., 4., 13., 7., 0.2]], [1, 0, 2, 3]),
    'gaussian': ([[3., 6., 9., 11., 0.9], [6., 3., 8., 7., 0.59630775],
                  [3., 7., 10., 12., 0.35275510],
                  [1., 4., 13., 7., 0.18650459]], [1, 0, 2, 3]),
    'naive': ([[3., 6., 9., 11., 0.9], [6., 3., 8., 7., 0.6],
               [1., 4., 13., 7., 0.2]], [1, 0, 3]),
}


@pytest.mark.parametrize('method', ['linear', 'gaussian', 'naive'])
def test_soft_nms_published_cases(method):
    dets, kept = ops.soft_nms(
        SOFTNMS_BOXES,
        NMS_SCORES,
        iou_threshold=0.3,
        sigma=0.5,
        min_score=1e-3,
        method=method)
    expected, order = SOFTNMS_EXPECTED[method]
    assert kept.tolist() == order
    assert_close(torch.from_numpy(dets), torch.tensor(expected))


def test_nms_match_published_case():
    dets = torch.tensor([[49.1, 32.4, 51.0, 35.9, 0.9],
                         [49.3, 32.9, 51.0, 35.3, 0.9],
                         [35.3, 11.5, 39.9, 14.5, 0.4],
                         [35.2, 11.7, 39.7, 15.7, 0.3]])
    groups = [g.tolist() for g in ops.nms_match(dets, 0.6)]
    assert groups == [[0, 1], [2, 3]]
    assert ops.nms_match(dets[:0], 0.7) == []


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.2, 0.4, 0.6])
def test_nms_equals_the_greedy_definition(offset, threshold):
    dets, scores = boxes(80), torch.rand(80)
    kept = ops.nms(dets, scores, threshold, offset)[1].tolist()
    assert kept == greedy_nms(dets.tolist(), scores.tolist(), threshold,
                              offset)
    assert 1 < len(kept) < 80


def test_nms_options_and_empty_input():
    dets, scores = boxes(30), torch.rand(30)
    kept = ops.nms(dets, scores, 0.5, score_threshold=0.5, max_num=3)[1]
    assert len(kept) == 3 and (scores[kept] > 0.5).all()
    dets, kept = ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5) and kept.shape == (0, )
    dets, kept = ops.soft_nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5) and kept.shape == (0, )


def test_batched_nms_keeps_classes_apart():
    dets = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 9.]])
    kept = ops.batched_nms(dets, torch.tensor([.9, .8]), torch.tensor([0, 1]),
                           dict(type='nms', iou_threshold=0.5))[1]
    assert kept.tolist() == [0, 1]


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_bbox_overlaps(mode, offset):
    a, b = boxes(5), boxes(7)
    ious = ops.bbox_overlaps(a, b, mode=mode, offset=offset)
    for i, j in ((0, 0), (3, 6), (4, 2)):
        expected = iou(a[i].tolist(), b[j].tolist(), offset)
        if mode == 'iof':
            size = a[i, 2:] - a[i, :2] + offset
            other = b[j, 2:] - b[j, :2] + offset
            total = float(size.prod() + other.prod())
            inter = expected * total / (1 + expected)
            expected = inter / float(size.prod())
        assert ious[i, j].item() == pytest.approx(expected, rel=1e-5)
    aligned = ops.bbox_overlaps(a, b[:5], mode, aligned=True, offset=offset)
    assert torch.equal(aligned, ops.bbox_overlaps(a, b[:5], mode,
                                                  offset=offset).diag())
    assert ops.bbox_overlaps(a[:0], b).shape == (0, 7)


# mmcv's published cases of roi_align and roi_pool: input, rois -> output.

ROI_CASES = [
    ([[[[1., 2.], [3., 4.]]]], [[0., 0., 0., 1., 1.]]),
    ([[[[1., 2.], [3., 4.]], [[4., 3.], [2., 1.]]]], [[0., 0., 0., 1., 1.]]),
    ([[[[1., 2., 5., 6.], [3., 4., 7., 8.], [9., 10., 13., 14.],
        [11., 12., 15., 16.]]]], [[0., 0., 0., 3., 3.]])
]
ROI_ALIGN_OUTPUTS = [[[[[1.0, 1.25], [1.5, 1.75]]]],
                     [[[[1.0, 1.25], [1.5, 1.75]],
                       [[4.0, 3.75], [3.5, 3.25]]]],
                     [[[[1.9375, 4.75], [7.5625, 10.375]]]]]
ROI_POOL_OUTPUTS = [[[[[1., 2.], [3., 4.]]]],
                    [[[[1., 2.], [3., 4.]], [[4., 3.], [2., 1.]]]],
                    [[[[4., 8.], [12., 16.]]]]]


@pytest.mark.parametrize('case, expected', zip(ROI_CASES, ROI_ALIGN_OUTPUTS))
def test_roi_align_published_cases(case, expected):
    out = ops.roi_align(*map(torch.tensor, case), (2, 2), 1., 2, 'avg', True)
    assert torch.equal(out, torch.tensor(expected))


@pytest.mark.parametrize('case, expected', zip(ROI_CASES, ROI_POOL_OUTPUTS))
def test_roi_pool_published_cases(case, expected):
    out = ops.roi_pool(*map(torch.tensor, case), 2, 1.)
    assert torch.equal(out, torch.tensor(expected))


def some_rois() -> torch.Tensor:
    return torch.cat([torch.tensor([[0.], [1.], [1.]]), boxes(3, 20.)], 1)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
def test_roi_align_equals_torchvision(aligned, ratio):
    x, rois = torch.rand(2, 3, 9, 11, requires_grad=True), some_rois()
    ours = ops.RoIAlign((3, 2), .5, ratio, aligned=aligned)(x, rois)
    theirs = tv.roi_align(x, rois, (3, 2), .5, ratio, aligned)
    assert torch.equal(ours, theirs)
    grad = torch.rand_like(ours)
    assert_close(*(torch.autograd.grad(y, x, grad)[0]
                   for y in (ours, theirs)))  # summed in another order


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 1, 2])
def test_roi_align_gradient_equals_torchvision(aligned, ratio):
    """In float64; of many sizes, in part or wholly outside, or empty."""
    x = torch.rand(2, 3, 19, 11, dtype=torch.double, requires_grad=True)
    corners = torch.rand(40, 2, dtype=torch.double) * 90 - 30
    sizes = torch.rand(40, 2, dtype=torch.double) * 40
    sizes[0], sizes[1, 0], sizes[2] = 0., 0., -2.
    rois = torch.cat([torch.arange(40.)[:, None] % 2, corners,
                      corners + sizes], 1)
    ours = ops.RoIAlign((4, 3), .5, ratio, aligned=aligned)(x, rois)
    theirs = tv.roi_align(x, rois, (4, 3), .5, ratio, aligned)
    grad = torch.rand_like(ours)
    torch.testing.assert_close(
        *(torch.autograd.grad(y, x, grad)[0] for y in (ours, theirs)),
        rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_gradient(mode, aligned):
    x = torch.rand(2, 2, 6, 7, dtype=torch.double, requires_grad=True)
    rois = some_rois().double()
    assert gradcheck(
        lambda x: ops.roi_align(x, rois, (2, 3), .4, 2, mode, aligned), (x, ))


def test_roi_align_max_of_samples():
    """With one sample a bin, max and average are the same."""
    x, rois = torch.rand(2, 3, 9, 11), some_rois()
    avg, most = (ops.roi_align(x, rois, (4, 4), .5, 1, mode, True)
                 for mode in ('avg', 'max'))
    assert_close(avg, most)  # other order of the four products
    assert (ops.roi_align(x, rois, (4, 4), .5, 3, 'max', True) >=
            ops.roi_align(x, rois, (4, 4), .5, 3, 'avg', True)).all()


def test_roi_pool_definition_and_gradient():
    """Corners are scaled, not rounded (unlike torchvision)."""
    x = torch.arange(48.).view(1, 1, 6, 8)
    rois = torch.tensor([[0., 2., 2., 8., 6.]])  # halved: 1..4.5, 1..3.5
    out = ops.roi_pool(x, rois, (2, 2), .5)
    # rows [1, 2.25) and [2.25, 3.5): pixels 1..2 and 2..3;
    # columns [1, 2.75) and [2.75, 4.5): pixels 1..2 and 2..4
    assert out.flatten().tolist() == [18., 20., 26., 28.]
    x = torch.rand(2, 2, 6, 7, dtype=torch.double, requires_grad=True)
    rois = some_rois().double()
    assert gradcheck(lambda x: ops.roi_pool(x, rois, (2, 3), .4), (x, ))


def test_roi_pool_equals_torchvision_on_whole_pixels():
    x = torch.rand(2, 3, 12, 12)
    rois = torch.tensor([[0., 1., 2., 8., 9.], [1., 0., 0., 11., 5.]])
    assert torch.equal(
        ops.roi_pool(x, rois, (3, 3), 1.), tv.roi_pool(x, rois, 3, 1.))


@pytest.mark.parametrize('op', [
    lambda x, rois: ops.roi_align(x, rois, (2, 2), 1., 0, 'avg', True),
    lambda x, rois: ops.roi_align(x, rois, (2, 2), 1., 0, 'max', True),
    lambda x, rois: ops.roi_pool(x, rois, (2, 2), 1.)
])
def test_no_rois(op):
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    out = op(x, torch.zeros(0, 5))
    assert out.shape == (0, 3, 2, 2)
    out.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_half_precision_on_the_cpu():
    x, rois = torch.rand(2, 3, 9, 11), some_rois()
    out = ops.roi_align(x.bfloat16(), rois, (3, 2), .5, 0, 'avg', True)
    assert out.dtype == torch.bfloat16
    expected = tv.roi_align(x.bfloat16().float(), rois, (3, 2), .5, 0, True)
    assert torch.equal(out, expected.bfloat16())


# Focal losses. mmcv's published cases: mean over N = number of rows.

FOCAL_CASES = [([[1., 0.], [0., 1.]], [0, 1]),
               ([[1., 0., -1.], [0., 1., 2.]], [2, 1]),
               ([[1e-6, 2e-6, 3e-6], [4e-6, 5e-5, 6e-4], [7e-3, 8e-2, 9e-1]],
                [1, 2, 0])]
SIGMOID_OUTPUTS = [
    (0.13562961, [[-0.00657264, 0.11185755], [0.11185755, -0.00657264]]),
    (1.10251057, [[0.28808805, 0.11185755, -0.09602935],
                  [0.11185755, -0.00657264, 0.40376765]]),
    (0.42287254, [[0.07457182, -0.02485716, 0.07457201],
                  [0.07457211, 0.07457669, -0.02483728],
                  [-0.02462499, 0.08277918, 0.18050370]])
]
SOFTMAX_OUTPUTS = [
    (0.00566451, [[-0.00657264, 0.00657264], [0.00657264, -0.00657264]]),
    (0.34956908, [[0.10165970, 0.03739851, -0.13905823],
                  [0.01227554, -0.10298023, 0.09070466]]),
    (0.15754992, [[0.02590877, -0.05181759, 0.02590882],
                  [0.02589641, 0.02589760, -0.05179400],
                  [-0.07307514, 0.02234372, 0.05073142]])
]


@pytest.mark.parametrize(
    'loss, case, expected',
    [('sigmoid', *x) for x in zip(FOCAL_CASES, SIGMOID_OUTPUTS)] +
    [('softmax', *x) for x in zip(FOCAL_CASES, SOFTMAX_OUTPUTS)])
def test_focal_loss_published_cases(loss, case, expected):
    x, target = torch.tensor(case[0], requires_grad=True), case[1]
    y = getattr(ops, f'{loss}_focal_loss')(x, torch.tensor(target), 2., .25,
                                           None, 'mean')
    y.backward()
    # The published figures have eight decimals.
    assert_close(y, torch.tensor(expected[0]), rtol=0, atol=1e-6)
    assert_close(x.grad, torch.tensor(expected[1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize('target', [[2, 0, 3, 1], [3, 3, 3, 3]])
def test_sigmoid_focal_loss_equals_torchvision(target):
    x, target = torch.randn(4, 3), torch.tensor(target)  # 3 is background
    one_hot = torch.nn.functional.one_hot(target, 4)[:, :3].float()
    ours = ops.sigmoid_focal_loss(x, target, 2., .25, None, 'none')
    assert_close(ours, tv.sigmoid_focal_loss(x, one_hot, .25, 2.))


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('loss', ['sigmoid', 'softmax'])
def test_focal_loss_gradient(loss, weighted):
    x = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    target = torch.tensor([0, 2, 1, 1, 0])
    weight = torch.tensor([.5, 1., 2.]).double() if weighted else None
    function = getattr(ops, f'{loss}_focal_loss')
    assert gradcheck(lambda x: function(x, target, 2., .25, weight, 'sum'),
                     (x, ))


def test_focal_loss_of_nothing_and_of_extremes():
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = ops.sigmoid_focal_loss(empty, torch.zeros(0).long(), 2., .25, None,
                                  'sum')
    loss.backward()
    assert loss == 0 and empty.grad.shape == (0, 3)
    x = torch.tensor([[200., -200.]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(x, torch.tensor([1]), 2., .25, None, 'sum')
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()


# Convolutions.


def test_deform_conv_published_case():
    conv = ops.DeformConv2dPack(1, 1, 2)
    offsets = [[.1, .4, .6, .1], [.3, .2, .1, .3], [.5, .5, .2, .8],
               [.8, .3, .9, .1], [.3, .1, .2, .5], [.3, .7, .5, .3],
               [.6, .2, .5, .3], [.4, .1, .8, .4]]
    conv.conv_offset.weight.data = torch.tensor(offsets).view(8, 1, 2, 2)
    conv.conv_offset.bias.data = torch.tensor(
        [.7, .1, .8, .5, .6, .5, .4, .7])
    conv.weight.data = torch.tensor([.4, .2, .1, .9]).view(1, 1, 2, 2)
    x = torch.tensor([[[[1., 2., 3.], [0., 1., 2.], [3., 5., 2.]]]],
                     requires_grad=True)
    out = conv(x)
    out.sum().backward()
    expected = [
        (out, [1.65, 0, 0, 0]),
        (x.grad, [-.666, .204, 0, .03, -.416, .012, 0, .252, .129]),
        (conv.conv_offset.bias.grad,
         [1.44, -.72, 0, 0, -.1, -.08, -.54, -.54]),
        (conv.weight.grad, [3.62, 0, .4, .18]),
    ]
    for found, published in expected:
        # The published figures have three decimals.
        assert_close(found.flatten(), torch.tensor(published), rtol=1e-3,
                     atol=1e-5)


@pytest.mark.parametrize('groups, deform_groups', [(1, 1), (2, 2)])
def test_deform_conv_equals_torchvision(groups, deform_groups):
    conv = ops.DeformConv2d(4, 6, 3, 2, 1, groups=groups,
                            deform_groups=deform_groups)
    x = torch.rand(2, 4, 9, 8, requires_grad=True)
    offset = torch.randn(2, 18 * deform_groups, 5, 4, requires_grad=True)
    leaves = (x, offset, conv.weight)
    ours = conv(x, offset)
    theirs = tv.deform_conv2d(x, offset, conv.weight, None, 2, 1)
    assert torch.equal(ours, theirs)
    grad = torch.rand_like(ours)
    for a, b in zip(*(torch.autograd.grad(y, leaves, grad)
                      for y in (ours, theirs))):
        assert torch.equal(a, b)


def test_deform_conv_without_offset_is_a_conv():
    conv = ops.DeformConv2d(3, 5, 3, padding=2, dilation=2)
    x = torch.rand(1, 3, 7, 7)
    expected = torch.nn.functional.conv2d(x, conv.weight, None, 1, 2, 2)
    # other order of summation
    assert_close(conv(x, torch.zeros(1, 18, 7, 7)), expected)


@pytest.mark.parametrize('bias', [True, False])
def test_modulated_deform_conv_gradient(bias):
    def leaf(*shape):
        return torch.rand(*shape, dtype=torch.double, requires_grad=True)

    # Offsets away from whole pixels, where bilinear sampling has a kink.
    offset = (torch.rand(1, 18, 4, 4, dtype=torch.double) * .4 +
              .3).requires_grad_()
    leaves = [leaf(1, 2, 4, 4), offset, leaf(1, 9, 4, 4), leaf(3, 2, 3, 3),
              leaf(3) if bias else None]
    assert gradcheck(
        lambda *a: ops.modulated_deform_conv2d(*a, 1, 1, 1, 1, 1), leaves)


def test_masked_conv_is_the_conv_where_the_mask_is_set():
    conv = ops.MaskedConv2d(3, 5, 3, padding=1)
    x, mask = torch.rand(1, 3, 6, 7), torch.rand(1, 6, 7) > .5
    with torch.no_grad():
        out = conv(x, mask.float())
        expected = torch.nn.Conv2d.forward(conv, x) * mask
    assert_close(out, expected)  # other order of summation


# Sampling by content.


def test_ms_deform_attn_equals_mmcvs_own_reference():
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )
    shapes = torch.tensor([[4, 3], [2, 2]])
    value = torch.rand(2, 16, 2, 4, requires_grad=True)
    places = torch.rand(2, 5, 2, 2, 3, 2, requires_grad=True)
    weights = torch.rand(2, 5, 2, 2, 3, requires_grad=True)
    ours = MultiScaleDeformableAttnFunction.apply(
        value, shapes, torch.tensor([0, 12]), places, weights, 64)
    theirs = multi_scale_deformable_attn_pytorch(value, shapes, places,
                                                 weights)
    assert torch.equal(ours, theirs)
    grad = torch.rand_like(ours)
    for a, b in zip(*(torch.autograd.grad(y, (value, places, weights), grad)
                      for y in (ours, theirs))):
        assert torch.equal(a, b)


@pytest.mark.parametrize('op', ['carafe', 'carafe_naive'])
def test_carafe(op):
    function = getattr(ops, op)
    x = torch.rand(1, 4, 3, 3, dtype=torch.double, requires_grad=True)
    masks = torch.rand(1, 18, 6, 6, dtype=torch.double, requires_grad=True)
    if op == 'carafe':  # mmcv refuses the other's gradient on the CPU
        assert gradcheck(lambda *a: function(*a, 3, 2, 2), (x, masks))
    # A kernel that is 1 at its centre repeats each pixel.
    centre = torch.zeros(1, 18, 6, 6, dtype=torch.double)
    centre[:, [4, 13]] = 1
    expected = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(function(x, centre, 3, 2, 2), expected)


@pytest.mark.parametrize('psa_type', ['collect', 'distribute'])
def test_psa_mask(psa_type):
    h, w, hm, wm = 3, 4, 5, 7
    mask = torch.rand(2, hm * wm, h, w, dtype=torch.double,
                      requires_grad=True)
    module = ops.PSAMask(psa_type, (hm, wm))
    expected = torch.zeros(2, h * w, h * w, dtype=torch.double)
    for y, x in np.ndindex(h, w):
        for i, j in np.ndindex(hm, wm):
            to_y, to_x = i + y - hm // 2, j + x - wm // 2
            if 0 <= to_y < h and 0 <= to_x < w:
                pair = [to_y * w + to_x, y * w + x]
                if psa_type == 'distribute':
                    pair.reverse()
                expected[:, pair[0], pair[1]] = mask[:, i * wm + j, y, x]
    assert torch.equal(module(mask), expected.view(2, h * w, h, w))
    assert gradcheck(module, (mask, ))


# The module itself.


def test_a_missing_operator_names_itself_and_the_remedy():
    with pytest.raises(NotImplementedError, match=r"'ball_query_forward'.*"
                       'MMCV_WITH_OPS=1'):
        ops.ball_query(0, 1., 4, torch.rand(1, 5, 3), torch.rand(1, 2, 3))


def test_dunder_lookups_fail_as_python_expects():
    ext = importlib.import_module(NAME)
    assert not hasattr(ext, '__path__')
    assert ext.__spec__.name == NAME
    assert 'mmqsdt' in ops.get_compiler_version()


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', code], capture_output=True,
                          text=True, check=True)


def test_the_stand_in_announces_itself_in_one_line():
    said = run('import mmqsdt, mmcv.ops; mmqsdt.compat.install()').stderr
    lines = [x for x in said.splitlines() if 'compiled operators' in x]
    assert len(lines) == 1


def test_a_real_extension_is_left_alone():
    code = ('import sys, types; real = types.ModuleType("mmcv._ext"); '
            'sys.modules["mmcv._ext"] = real; import mmqsdt; '
            'print(sys.modules["mmcv._ext"] is real, '
            'mmqsdt.compat.install())')
    assert run(code).stdout.split() == ['True', 'False']
