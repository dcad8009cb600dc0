import mmcv
import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from torch import nn

from mmqsdt.engine.hooks.channels_last import ChannelsLastHook
from mmqsdt.engine.hooks.draw_predictions import (
    DrawPredictionsHook,
    enlarge,
    picture_of,
    shown_factor,
)
from mmqsdt.models import QSDTransformer


class Runner:

    def __init__(self, model: nn.Module) -> None:
        self.model = model


def test_channels_last_changes_the_order_in_memory_alone():
    model = QSDTransformer('tiny', out_indices=(1, 2, 3, 4)).double().eval()
    x = torch.rand(2, 3, 64, 48, dtype=torch.double)
    expected = model(x)
    ChannelsLastHook().before_run(Runner(model))
    maps = model(x)
    for got, want in zip(maps, expected):
        assert got.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_colour_pictures_are_shown_as_they_are():
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert np.array_equal(picture_of(image), image.permute(1, 2, 0).numpy())


def test_events_are_drawn_in_red_and_blue():
    frames = torch.zeros(3, 2, 4, 4)
    frames[:, 1, 0, 0] = 2.  # positive, in every frame
    frames[1, 0, 3, 3] = 3.  # negative, in one
    picture = picture_of(frames)
    assert picture[0, 0].tolist() == [255, 0, 0]
    assert picture[3, 3].tolist() == [0, 0, 127]
    assert picture[1, 1].tolist() == [0, 0, 0]


def test_pictures_without_a_file_are_drawn(tmp_path):
    from mmpretrain.visualization import UniversalVisualizer
    hook = DrawPredictionsHook(str(tmp_path), min_size=64)
    visualizer = UniversalVisualizer()
    visualizer.dataset_meta = dict(classes=['cat', 'dog'])
    runner = Runner(None)
    runner.visualizer, hook.drawn = visualizer, 0
    sample = DataSample().set_gt_label(1).set_pred_label(0).set_pred_score(
        torch.tensor([0.7, 0.3]))
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    hook.after_test_iter(runner, 0, dict(inputs=[image]), [sample])
    drawn = mmcv.imread(str(tmp_path / '0001_image.png'))
    assert drawn.shape[:2] == (64, 64)


@pytest.mark.parametrize('height, width, factor', [
    (160, 160, 3), (32, 32, 15), (480, 640, 1), (1, 1, 480),
    (4, 3000, 1), (10, 300, 6)  # no longer than 2048 pixels
])
def test_small_pictures_are_enlarged(height, width, factor):
    assert shown_factor(np.zeros((height, width, 3)), 480) == factor


def test_enlarging_repeats_the_pixels_of_label_maps():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    sample = SegDataSample()
    label = torch.arange(6).view(1, 2, 3)
    sample.gt_sem_seg = PixelData(data=label)
    large = enlarge(sample, 3).gt_sem_seg.data
    assert large.shape == (1, 6, 9)
    assert torch.equal(large[:, ::3, ::3], label)
    assert torch.equal(large[:, 2::3, 2::3], label)
