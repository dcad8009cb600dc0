import numpy as np
import pytest
from mmcv.transforms import RandomResize, Resize

from mmqsdt.data.transforms import ResizeCentred

# Left half 0, right half 1, in an image and in its label map.
LABELS = np.repeat([[0, 1]], 80, axis=1).repeat(160, axis=0).astype(np.uint8)


def resized(transform):
    image = np.stack([255 * LABELS] * 3, axis=-1)
    return transform(
        dict(img=image, img_shape=LABELS.shape, gt_seg_map=LABELS.copy()))


def centroid(mask):
    return np.array([i.mean() + 0.5 for i in np.nonzero(mask)]) / mask.shape


@pytest.mark.parametrize('size', [64, 72, 96, 100, 160, 200])
def test_labels_stay_where_the_image_is(size):
    results = resized(ResizeCentred((size, size), interpolation='area'))
    labels = results['gt_seg_map']
    assert labels.shape == (size, size) == results['img'].shape[:2]
    # Of an even number of columns exactly half show the right half.
    assert np.array_equal(labels, results['img'][..., 0] >= 128)
    np.testing.assert_allclose(centroid(labels), (0.5, 0.75), atol=1e-12)


def test_mmcvs_own_moves_them():
    # Every pixel knows its column.
    columns = np.tile(np.arange(160, dtype=np.uint8), (160, 1))
    centres = (np.arange(64) + 0.5) * 2.5

    def mean_shift(transform):
        labels = transform(
            dict(
                img=np.zeros((160, 160, 3), np.uint8),
                img_shape=columns.shape,
                gt_seg_map=columns))['gt_seg_map']
        return (labels[0] + 0.5 - centres).mean()

    assert mean_shift(Resize((64, 64))) < -0.9
    assert abs(mean_shift(ResizeCentred((64, 64)))) < 0.26


def test_random_resize_and_every_label_field():
    transform = RandomResize((64, 64), ratio_range=(0.5, 0.5),
                             resize_type='mmqsdt.ResizeCentred',
                             keep_ratio=True)
    results = transform(
        dict(
            img=np.stack([LABELS] * 3, axis=-1),
            img_shape=LABELS.shape,
            gt_seg_map=LABELS,
            gt_depth_map=LABELS,
            seg_fields=['gt_seg_map', 'gt_depth_map']))
    assert results['gt_seg_map'].shape == (32, 32)
    assert np.array_equal(results['gt_seg_map'], results['gt_depth_map'])


def test_images_without_labels_pass():
    results = ResizeCentred((8, 8))(dict(img=np.zeros((16, 16, 3), np.uint8)))
    assert results['img'].shape == (8, 8, 3)
