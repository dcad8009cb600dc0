"""Drawings: objects are seen under their masks, labels lie apart."""

from itertools import combinations

import numpy as np
import pytest
import torch

from mmqsdt.engine.drawing import (
    TINT,
    box_of,
    colors_of,
    draw_instances,
    draw_regions,
    free_place,
    meet,
    middle_of,
    use_our_drawing,
    write_labels,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def textured(height: int = 120, width: int = 160) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, (x + y) % 200], -1).astype(np.uint8)


def test_an_object_is_seen_under_its_mask():
    image, mask = textured(), np.zeros((120, 160), bool)
    mask[40:80, 50:100] = True
    drawn = draw_instances(image, ['3 97%'], [RED], [(50, 40, 99, 79)],
                           mask[None])
    inside = np.s_[44:76, 54:96]
    expected = (1 - TINT) * image[inside] + TINT * np.array(RED)
    assert np.abs(drawn[inside] - expected).max() < 1
    assert drawn[inside].std() > 0.5 * image[inside].std()
    assert np.array_equal(drawn[100:], image[100:])  # the rest as it was
    assert np.array_equal(image, textured())  # and the image itself


@pytest.mark.parametrize('number', [2, 5, 20])
def test_labels_of_one_place_do_not_cover_each_other(number):
    taken = []
    for _ in range(number):
        taken.append(free_place((60, 50, 90, 80), (40, 12), (160, 120),
                                taken))
    assert not any(meet(a, b) for a, b in combinations(taken, 2))
    assert all(x1 >= 0 and y1 >= 0 and x2 < 160 and y2 < 120
               for x1, y1, x2, y2 in taken)


def test_a_label_is_above_its_box_if_it_can_be():
    assert free_place((60, 50, 90, 80), (40, 12), (160, 120), []) == (
        60, 38, 100, 50)
    assert free_place((60, 5, 90, 80), (40, 12), (160, 120), [])[1] == 0


def test_a_picture_smaller_than_the_label():
    image = np.zeros((8, 8, 3), np.uint8)
    assert write_labels(image, ['a long name'], [RED],
                        [(0, 0, 7, 7)]).shape == (8, 8, 3)


def test_regions_are_tinted_and_named():
    image, labels = textured(), np.zeros((120, 160), int)
    labels[:, 80:] = 1
    labels[0, 0] = 255  # ignored
    drawn = draw_regions(image, labels, ['ground', 'sky'], [RED, BLUE])
    assert (drawn[100, 20:60, 0].astype(int) > image[100, 20:60, 0]).all()
    assert (drawn[100, 120:150, 2].astype(int) > image[100, 120:150, 2]).all()
    unnamed = draw_regions(image, labels, None, [RED, BLUE])
    assert not np.array_equal(drawn, unnamed)


def test_places_of_masks():
    mask = np.zeros((10, 12), bool)
    assert box_of(mask) == (0, 0, 0, 0)
    mask[2:9, 3:8] = True
    assert box_of(mask) == (3, 2, 7, 8)
    assert middle_of(mask) in [(5, y) for y in (4, 5, 6)]


def test_colors_without_a_palette_differ():
    assert colors_of([RED, BLUE], [1, 0]) == [BLUE, RED]
    found = colors_of(None, range(20))
    assert len(set(found)) == 20 and colors_of('random', [3]) == [found[3]]


@pytest.mark.parametrize('kind', ['tensor', 'bitmap', 'boxes'])
def test_the_visualizer_of_mmdet_draws_so(kind):
    pytest.importorskip('mmdet.models')
    from mmdet.structures.mask import BitmapMasks
    from mmdet.visualization import DetLocalVisualizer
    from mmengine.structures import InstanceData
    masks = np.zeros((1, 120, 160), np.uint8)
    masks[0, 40:80, 50:100] = 1
    instances = InstanceData(
        bboxes=torch.tensor([[50., 40, 99, 79]]), labels=torch.tensor([1]),
        scores=torch.tensor([.97]))
    if kind != 'boxes':
        instances.masks = torch.from_numpy(masks).bool() \
            if kind == 'tensor' else BitmapMasks(masks, 120, 160)
    visualizer = DetLocalVisualizer(name=f'drawing_{kind}')
    use_our_drawing(visualizer)
    drawn = visualizer._draw_instances(
        textured(), instances, ['a', 'b'], [RED, BLUE])
    expected = draw_instances(
        textured(), ['b 97%'], [BLUE], [(50, 40, 99, 79)],
        None if kind == 'boxes' else masks.astype(bool))
    assert np.array_equal(drawn, expected)
