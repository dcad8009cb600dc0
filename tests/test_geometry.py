"""Strides, levels and channels agree from the taps to the heads.

All is measured on the built model, from the sizes of its maps; what a config
says is only compared with that.
"""

from collections.abc import Iterator, Sequence

import pytest
import torch
from test_configs import CONFIGS, build, full_size, load
from torch import Tensor, nn

from mmqsdt import QSDTransformer
from mmqsdt.layers import IELIF, LSQWeight

HEIGHT, WIDTH = 512, 640  # multiples of 128, the largest stride


def strides_of(maps: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Pixels of the image to a pixel of each map: (along x, along y)."""
    return [(WIDTH / m.shape[3], HEIGHT / m.shape[2]) for m in maps]


def pairs(strides: Sequence[float]) -> list[tuple[float, float]]:
    return [(s, s) for s in strides]


def as_list(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def geometry_faults(model: nn.Module) -> list[str]:
    """Whatever does not fit in a model on the meta device; best none."""
    faults = []
    with pytest.MonkeyPatch.context() as patch:
        # They keep shapes, and would take most of the time.
        patch.setattr(IELIF, 'forward', lambda self, x: x)
        patch.setattr(LSQWeight, 'quantized_weight', lambda self: self.weight)
        try:
            for part, said, measured in measurements(model):
                if list(map(tuple, said)) != list(map(tuple, measured)):
                    faults.append(f'{part}: {said} said, {measured} measured')
        except RuntimeError as error:  # shapes that cannot be multiplied
            faults.append(f'channels: {error}')
    return faults


def measurements(model: nn.Module) -> Iterator[tuple[str, list, list]]:
    """Name, what a part says, what was measured: one triple for each part."""
    backbone = model.backbone
    channels = getattr(backbone, 'in_channels', 3)
    taps = backbone(torch.empty(1, channels, HEIGHT, WIDTH, device='meta'))
    if isinstance(backbone, QSDTransformer):
        said = [backbone.strides[i] for i in backbone.out_indices]
        yield 'taps', pairs(said), strides_of(taps)
    maps = model.neck(taps) if model.with_neck else taps
    if hasattr(model, 'decode_head'):
        yield from of_segmenter(model, maps)
    elif hasattr(model, 'head'):
        logits = model.head(maps)
        yield 'logits', [(1, model.head.num_classes)], [logits.shape]
    else:
        yield from of_detector(model, maps)


def of_segmenter(model: nn.Module, maps: tuple[Tensor, ...]) -> Iterator:
    heads = [model.decode_head]
    if model.with_auxiliary_head:
        heads += as_list(model.auxiliary_head)
    for head in heads:
        single = isinstance(head.in_index, int)
        index = [head.in_index] if single else head.in_index
        read = [maps[i] for i in index]
        if hasattr(head, 'feature_strides'):
            yield ('feature_strides', pairs(head.feature_strides),
                   strides_of(read))
            # The head would resize what does not fit, and say nothing.
            scaled = [s(m) for s, m in zip(head.scale_heads, read)]
            yield ('scale heads', strides_of(read[:1]) * len(read),
                   strides_of(scaled))
        yield 'logits', strides_of(read[:1]), strides_of([head(maps)])


def of_detector(model: nn.Module, maps: tuple[Tensor, ...]) -> Iterator:
    one_stage = getattr(model, 'rpn_head', None) is None
    dense = model.bbox_head if one_stage else model.rpn_head
    generator = dense.prior_generator
    yield 'anchors', generator.strides, strides_of(maps)
    scores, deltas = dense(maps)
    yield 'scores', strides_of(maps), strides_of(scores)
    yield ('deltas', [(4 * len(a), ) for a in generator.base_anchors],
           [(d.shape[1], ) for d in deltas])
    for kind in () if one_stage else ('bbox', 'mask'):
        extractors = as_list(getattr(model.roi_head, f'{kind}_roi_extractor'))
        heads = as_list(getattr(model.roi_head, f'{kind}_head'))
        for extractor, head in zip(extractors, heads):
            part = f'{kind} extractor'
            read = maps[:extractor.num_inputs]
            said = [1 / layer.spatial_scale for layer in extractor.roi_layers]
            yield part, pairs(said), strides_of(read)
            width = extractor.out_channels
            yield part, [(width, )] * len(read), [(m.shape[1], ) for m in read]
            size = extractor.roi_layers[0].output_size
            head(torch.empty(2, width, *size, device='meta'))


@pytest.mark.parametrize('name', CONFIGS)
def test_geometry_is_right(name):
    assert geometry_faults(full_size(name)) == []


DET, SEG = 'det/qsdt_maskrcnn_digits.py', 'seg/qsdt_fpn_digits.py'
WRONG = [
    (DET, 'backbone.stage4_stride', 1, 'anchors'),
    (DET, 'backbone.out_indices', [0, 1, 2, 3], 'channels'),
    (DET, 'neck.in_channels', [16, 48, 96, 96], 'channels'),
    (DET, 'neck.num_outs', 4, 'anchors'),
    (DET, 'neck.out_channels', 32, 'channels'),
    (DET, 'rpn_head.anchor_generator.strides', [4, 8, 16, 32, 32], 'anchors'),
    (DET, 'roi_head.bbox_roi_extractor.featmap_strides', [4, 8, 16, 16],
     'bbox extractor'),
    (DET, 'roi_head.mask_roi_extractor.featmap_strides', [2, 4, 8, 16],
     'mask extractor'),
    (DET, 'roi_head.bbox_roi_extractor.out_channels', 32, 'bbox extractor'),
    (DET, 'roi_head.bbox_head.roi_feat_size', 5, 'channels'),
    (DET, 'roi_head.mask_head.in_channels', 32, 'channels'),
    ('det/qsdt_cascade-maskrcnn_digits.py',
     'roi_head.bbox_roi_extractor.featmap_strides', [4, 8, 16, 64],
     'bbox extractor'),
    ('det/qsdt_retinanet_digits.py', 'neck.start_level', 0, 'anchors'),
    ('det/qsdt_retinanet_digits.py', 'bbox_head.anchor_generator.strides',
     [4, 8, 16, 32, 64], 'anchors'),
    (SEG, 'decode_head.feature_strides', [4, 8, 16, 32], 'feature_strides'),
    (SEG, 'decode_head.feature_strides', [2, 4, 8, 8], 'scale heads'),
    (SEG, 'backbone.out_indices', [0, 1, 2, 3], 'channels'),
    ('seg/qsdt_upernet_digits.py', 'decode_head.in_channels',
     [16, 48, 96, 96], 'channels'),
    ('cls/qsdt_digits.py', 'head.in_channels', 96, 'channels'),
]


@pytest.mark.parametrize('name, key, value, words', WRONG)
def test_one_wrong_number_is_found(name, key, value, words):
    cfg = load(name)
    cfg.merge_from_dict({f'model.{key}': value})
    faults = geometry_faults(build(cfg))
    assert any(fault.startswith(words) for fault in faults), faults
