"""What is drawn behind the maps is what the network saw."""

import numpy as np
import pytest
import torch
from mmengine.model import ImgDataPreprocessor
from torch import nn

from mmqsdt.measure.seen import picture_seen, recorded_inputs


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
@pytest.mark.parametrize('normalized', [True, False])
def test_normalisation_is_undone(bgr_to_rgb, normalized):
    values = dict(mean=[120., 110., 100.], std=[60., 50., 40.])
    model = nn.Module()
    model.data_preprocessor = ImgDataPreprocessor(
        bgr_to_rgb=bgr_to_rgb, pad_size_divisor=4,
        **values if normalized else {})
    bgr = torch.randint(0, 256, (3, 5, 8), dtype=torch.uint8)
    inputs = model.data_preprocessor(dict(inputs=[bgr]))['inputs']
    seen = picture_seen(model, inputs)
    assert seen.shape == (8, 8, 3) and seen.dtype == np.uint8
    assert np.array_equal(seen[:5], bgr.permute(1, 2, 0).numpy()[..., ::-1])


def test_without_preprocessor_values_are_stretched():
    seen = picture_seen(nn.Module(), torch.tensor(
        [-1., 0., 1.]).view(1, 3, 1, 1))
    assert seen.tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize('shape', [(2, 3, 4, 4), (1, 2, 4, 4), (3, 4, 4)])
def test_other_inputs_are_refused(shape):
    with pytest.raises(ValueError, match='one picture of 3 channels'):
        picture_seen(nn.Module(), torch.zeros(shape))


def test_the_last_input_is_kept():
    model = nn.Identity()
    with recorded_inputs(model) as inputs:
        model(torch.zeros(1))
        model(torch.ones(1))
    assert inputs == [torch.ones(1)]
    model(torch.zeros(1))
    assert inputs == [torch.ones(1)]
    assert not model._forward_hooks
