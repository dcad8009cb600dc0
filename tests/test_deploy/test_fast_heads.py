"""What necks and heads do between layers: the same, in fewer passes."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from mmqsdt import SpikeFPN
from mmqsdt.deploy import to_fast, to_integer
from mmqsdt.deploy.fast_heads import (
    ROWS,
    FastFPN,
    FastRoIAlign,
    add_bilinear,
    add_nearest,
)
from mmqsdt.deploy.fast_layers import FusedNeuron
from mmqsdt.deploy.kernels import find_kernel_obstacle

has_kernels = pytest.mark.skipif(
    find_kernel_obstacle() is not None,
    reason=f'no integer kernels: {find_kernel_obstacle()}')
CHANNELS_LAST = torch.channels_last


def maps(*shape, memory_format=CHANNELS_LAST):
    return torch.randn(shape).contiguous(memory_format=memory_format)


@pytest.mark.parametrize('memory_format', [
    CHANNELS_LAST, torch.contiguous_format], ids=str)
@pytest.mark.parametrize('size', [(14, 18), (13, 18), (7, 9)], ids=str)
def test_add_nearest(size, memory_format):
    large, small = maps(2, 5, *size, memory_format=memory_format), maps(
        2, 5, 7, 9)
    expected = large + F.interpolate(small, size=size, mode='nearest')
    assert torch.equal(add_nearest(large, small), expected)
    assert torch.equal(large, expected)


@pytest.mark.parametrize('height', [1, 2, ROWS - 1, ROWS, ROWS + 1,
                                    3 * ROWS + 1])
def test_add_bilinear(height):
    large, small = maps(2, 5, 2 * height, 18), maps(2, 5, height, 9)
    expected = large + F.interpolate(
        small, size=(2 * height, 18), mode='bilinear', align_corners=False)
    assert torch.equal(add_bilinear(large, small), expected)
    assert torch.equal(large, expected)


@pytest.mark.parametrize('options', [
    dict(), dict(num_outs=4), dict(num_outs=4, add_extra_convs='on_lateral'),
    dict(norm_cfg=dict(type='GN', num_groups=4))], ids=str)
def test_a_neck(options):
    neck = SpikeFPN([8, 16, 16], 8, **dict(
        dict(num_outs=3, weight_bits=4), **options)).eval()
    inputs = [maps(2, 8, 24, 20), maps(2, 16, 12, 10), maps(2, 16, 6, 5)]
    before = deepcopy(inputs)
    plain, fast = to_integer(neck, (inputs, )), to_fast(neck, (inputs, ))
    with torch.no_grad():
        for a, b in zip(plain(inputs), fast(inputs), strict=True):
            # Float32 rounding of sums of values near 1; no count differs.
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert all(map(torch.equal, inputs, before))
    if find_kernel_obstacle() is None:
        assert isinstance(fast, FastFPN)
    with pytest.raises(ValueError, match='built for 3 maps, got 2'):
        fast(inputs[:2])


def regions(count, size):
    """Some of them beyond the border, thin, tiny, or without area."""
    corner = torch.rand(count, 2) * size * 1.2 - .1 * size
    shape = torch.rand(count, 2).square() * size
    shape[:4] = torch.tensor([[0., 0.], [.1, size], [size, .1], [.5, .5]])
    image = torch.arange(count) % 2
    return torch.cat([image[:, None].float(), corner, corner + shape], 1)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('output_size', [7, (3, 5)], ids=str)
def test_roi_align(output_size, aligned):
    ops = pytest.importorskip('mmcv.ops')
    layer = ops.RoIAlign(output_size, .25, 0, 'avg', aligned)
    x, rois = maps(2, 6, 30, 41), regions(200, 140.)
    out = FastRoIAlign(layer)(x, rois)
    assert out.is_contiguous(memory_format=CHANNELS_LAST)
    # A place near pixel 40 is known to 4e-6, values differ by up to 8 from
    # one pixel to the next.
    torch.testing.assert_close(out, layer(x, rois), rtol=1e-5, atol=5e-5)


@has_kernels
def test_what_becomes_of_a_detector(build, inputs):
    model, data = build('det'), inputs('det')
    other = to_fast(model)
    head = other.roi_head
    assert isinstance(other.neck, FastFPN)
    assert all(isinstance(layer, FastRoIAlign) for extractor in (
        head.bbox_roi_extractor, head.mask_roi_extractor)
        for layer in extractor.roi_layers)
    assert isinstance(head.bbox_head.shared_fcs[0].neuron, FusedNeuron)
    seen = []
    head.bbox_head.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        other(**data)
    assert seen[0].is_contiguous(memory_format=CHANNELS_LAST)


@has_kernels
@pytest.mark.parametrize('task', ['det', 'seg'])
def test_what_is_changed_in_a_class_of_others_can_be_copied(task, build,
                                                            inputs):
    other, data = to_fast(build(task)), inputs(task)
    copies = deepcopy(other), pickle.loads(pickle.dumps(other))
    head = 'roi_head' if task == 'det' else 'decode_head'
    with torch.no_grad():
        out = other(**dict(data, mode='tensor'))
        for copy in copies:
            parts = set(copy.modules())
            own = [m for m in getattr(copy, head).modules()
                   if 'forward' in vars(m)]
            assert own
            for module in own:  # and calls itself, not what it is a copy of
                assert module.forward.args[0] is module in parts
            again = copy(**dict(data, mode='tensor'))
            for a, b in zip(flat(out), flat(again), strict=True):
                assert torch.equal(a, b)


def flat(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [y for each in outputs for y in flat(each)]
