import json

import numpy as np
import pytest
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from mmqsdt.measure.style import (
    draw_over,
    save_picture,
    split_path,
    stage_of,
    thumbnail,
    write_json,
)


@pytest.mark.parametrize('path, place, layer', [
    ('backbone.stages.3.blocks.1.attn.q_neuron', 'stage 3, block 1', 'q'),
    ('stages.3.blocks.1.attn.attn_neuron', 'stage 3, block 1',
     'q (k$^T$v)'),
    ('backbone.stages.2.downsample.neuron', 'stage 2, block 0', 'downsample'),
    ('backbone.stages.0.blocks.0.conv1.conv', 'stage 0, block 0',
     'conv1.conv'),
    ('neck.lateral_convs.0.neuron', 'neck', 'lateral_convs.0'),
    ('rpn_head.rpn_conv.neuron (2)', 'rpn_head', 'rpn_conv (2)'),
    ('head.neuron', 'head', 'in')])
def test_paths_in_words(path, place, layer):
    assert split_path(path) == (place, layer)
    assert stage_of(path) == place.partition(',')[0]


def test_a_map_lies_over_the_picture_cell_by_cell():
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, 3:] = 255
    axes = Figure().subplots()
    draw_over(axes, picture, np.array([[0., 1.]]), Normalize(0, 1), 'gray',
              share=0.5)
    drawn = axes.images[0].get_array()
    assert drawn.shape == (4, 6, 3)
    # dark and silent on the left, bright and firing on the right
    assert (drawn[:, :3] == 0).all()
    assert (drawn[:, 3:] == 255).all()


def test_thumbnails():
    picture = np.zeros((100, 400, 3), np.uint8)
    picture[:, 200:] = 255
    small = thumbnail(picture, 40)
    assert small.shape == (10, 40, 3)
    assert (small[:, :20] == 0).all() and (small[:, 20:] == 255).all()
    assert thumbnail(small, 40) is small


def test_files_are_equal_for_equal_content(tmp_path):
    found = []
    for folder in ('a', 'b'):
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([1, 2])
        png, svg = save_picture(figure, tmp_path / folder / 'x.y')
        assert png.name == 'x.y.png' and svg.name == 'x.y.svg'
        assert Image.open(png).size == (300, 200)
        found.append((png.read_bytes(), svg.read_bytes()))
    assert found[0] == found[1]


def test_json(tmp_path):
    path = write_json(dict(a=[1]), tmp_path / 'new/x.json')
    assert json.loads(path.read_text()) == dict(a=[1])
