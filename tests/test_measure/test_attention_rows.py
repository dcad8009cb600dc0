"""Rows are those of the N x N matrix, and give what the layer computes."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mmqsdt import QSDTransformer
from mmqsdt.layers import linear_attention
from mmqsdt.measure.attention_plot import (
    _draw_row,
    plot_attention,
    plot_heads,
)
from mmqsdt.measure.attention_rows import (
    attention_rows,
    choose_layers,
    over_average,
    recorded_attention,
    striking_places,
)

ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(2, 1), num_heads=2)
ANN = dict(weight_bits=None, neuron=dict(type='ReLU'))


def test_rows_of_the_matrix():
    q, k, v = torch.randint(0, 5, (3, 2, 4, 8, 6)).float() * 0.25
    full = 0.25 * torch.einsum('bhdn,bhdm->bhnm', q, k)
    # sums of multiples of 1/64 are exact in float32
    rows = attention_rows(q, k, 0.25, [5, 0])
    assert torch.equal(rows, full[:, :, [5, 0]])
    everything = attention_rows(q, k, 0.25, list(range(6)))
    assert torch.equal((everything @ v.mT).mT, linear_attention(q, k, v, .25))


@pytest.mark.parametrize('kwargs', [
    {}, dict(time_steps=3), dict(neuron=dict(type='mmqsdt.LIF')),
    dict(inner_neurons=True), ANN])
def test_rows_reproduce_the_output_of_the_layer(kwargs):
    model = QSDTransformer(ARCH, **kwargs)
    attention = model.stages[3].blocks[1].attn
    values, outputs = [], []
    handles = [
        attention.v_neuron.register_forward_hook(
            lambda m, a, out: values.append(attention.split_heads(out))),
        attention.attn_neuron.register_forward_pre_hook(
            lambda m, a: outputs.append(attention.split_heads(a[0])))
    ]
    with torch.no_grad(), recorded_attention(model) as layers:
        model(torch.rand(1, 3, 32, 48))
    for handle in handles:
        handle.remove()
    assert [x.layer for x in layers] == [
        'stages.3.blocks.0.attn', 'stages.3.blocks.1.attn',
        'stages.4.blocks.0.attn']
    layer = layers[1]
    assert layer.grid == (2, 3)
    tokens = list(range(6))
    rows = attention_rows(layer.q, layer.k, layer.scale, tokens)
    # float32 sums in another order, of ReLU's values; spikes are exact
    tolerance = dict(rtol=1e-5, atol=1e-6) if kwargs is ANN else dict(
        rtol=0, atol=0)
    assert torch.allclose((rows @ values[0].mT).mT, outputs[0], **tolerance)

    places = [((c + 0.5) / 3, (r + 0.5) / 2) for r in range(2)
              for c in range(3)]
    by_place = layer.rows(places)  # (heads, places, H, W)
    assert by_place.shape == (2, 6, 2, 3)
    assert torch.allclose(by_place.flatten(2), rows.mean(0))
    assert torch.allclose(layer.mean_row(), by_place.mean(1))
    assert not any(m._forward_hooks or m._forward_pre_hooks
                   for m in model.modules())


def test_places_and_tokens():
    model = QSDTransformer(ARCH)
    with torch.no_grad(), recorded_attention(model) as layers:
        model(torch.rand(1, 3, 32, 48))
    token = layers[0].token  # 2 x 3 tokens
    assert [token(0, 0), token(0.34, 0.4), token(0.99, 0.5),
            token(1, 1)] == [0, 1, 5, 5]


def test_striking_places_are_where_the_picture_changes():
    picture = np.zeros((50, 100, 3), np.uint8)
    picture[..., 2] = 255  # a flat colour is no contrast
    picture[12, 82:88] = 255  # row 1, column 8 of 5 x 10 tokens
    picture[42:48, 21:25] = 60  # row 4, column 2
    assert striking_places(picture, (5, 10), 2) == [
        (0.85, pytest.approx(0.3)), (0.25, 0.9)]
    # A small grid has room for few.
    assert len(striking_places(picture, (1, 2), 5)) == 2
    assert len(striking_places(picture, (5, 10), 99)) > 2


def test_over_average():
    rows = torch.tensor([[[1., 3.], [0., 0.]], [[0., 0.], [0., 0.]]])
    assert over_average(rows).tolist() == [
        [[1., 3.], [0., 0.]], [[0., 0.], [0., 0.]]]


def test_layers_are_chosen():
    model = QSDTransformer(dict(ARCH, depths=(6, 2)))
    with torch.no_grad(), recorded_attention(model) as layers:
        model(torch.rand(1, 3, 32, 32))
    chosen = choose_layers(layers)
    assert [layers.index(x) for x in chosen] == [0, 1, 3, 5, 7]
    assert choose_layers(layers[:1]) == layers[:1]
    assert choose_layers(layers, ['*4.blocks.1*', '*.blocks.1.*']) == [
        layers[7], layers[1]]
    with pytest.raises(ValueError, match="'q'; there are stages.3"):
        choose_layers(layers, ['q'])


def test_a_network_without_attention_is_refused():
    with pytest.raises(ValueError, match='0 QSDTransformer backbones'):
        with recorded_attention(torch.nn.Identity()):
            pass
    with pytest.raises(ValueError, match='no attention layer'):
        with recorded_attention(QSDTransformer(ARCH, out_indices=(2, ))):
            pass


def test_pictures(tmp_path):
    model = QSDTransformer(ARCH, time_steps=2)
    with torch.no_grad(), recorded_attention(model) as layers:
        model(torch.rand(1, 3, 32, 48))
    picture = torch.randint(0, 256, (32, 48, 3), dtype=torch.uint8).numpy()
    places = [(0.1, 0.1), (0.9, 0.9)]
    for files in (
            plot_attention(picture, layers, places, 'x', tmp_path / 'a'),
            plot_heads(picture, layers[2], places, 'x', tmp_path / 'h')):
        assert [f.suffix for f in files] == ['.png', '.svg']
        assert all(f.stat().st_size > 10_000 for f in files)
    # a row for each of three layers, the picture once; a bar of colours
    assert (tmp_path / 'a.svg').read_text().count('<image') >= 3 * 3 + 1


def test_a_silent_query_reads_nothing():
    picture = np.zeros((8, 8, 3), np.uint8)
    for row, words in ((torch.zeros(2, 2), 1), (torch.eye(2), 0)):
        axes = Figure().subplots()
        _draw_row(axes, picture, row)
        assert len(axes.texts) == words
