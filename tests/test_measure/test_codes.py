"""Codes are those of the layers, and w_q = s * code."""

import json

import pytest
import torch
from torch import nn

from mmqsdt import LSQConv2d, LSQLinear, QSDTransformer
from mmqsdt.measure.codes import weight_codes
from mmqsdt.measure.weights_plot import plot_weights

ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1), num_heads=2)


@pytest.mark.parametrize('bits', [2, 3, 4, 8])
def test_codes_of_layers(bits):
    model = nn.ModuleDict(dict(
        conv=LSQConv2d(3, 5, 3, bits=bits), plain=LSQLinear(4, 4, bits=None),
        linear=LSQLinear(7, 6, bits=bits)))
    with torch.no_grad():
        model.conv.step_size.mul_(torch.rand(5) + 0.5)
    found = weight_codes(model)
    assert [x.layer for x in found] == ['conv', 'linear']
    for x in found:
        layer = model[x.layer]
        assert x.codes == range(-2**(bits - 1), 2**(bits - 1))
        steps = torch.tensor(x.steps)
        assert torch.equal(steps, layer.positive_step_size())
        # from what the layer computes with: w_q / s
        codes = (layer.quantized_weight().flatten(1) /
                 steps[:, None]).round().flatten()
        assert x.counts == [int((codes == c).sum()) for c in x.codes]
        assert x.unused == [c for c in x.codes if c not in codes.tolist()]
        share = torch.bincount(codes.long() + 2**(bits - 1)) / len(codes)
        assert x.entropy == pytest.approx(
            float(torch.distributions.Categorical(share).entropy()) /
            torch.log(torch.tensor(2.)).item(), rel=1e-5)  # float32 shares
        ends = (codes == x.codes[0]) | (codes == x.codes[-1])
        assert x.share_clipped == pytest.approx(float(
            ends.double().mean()), rel=1e-12)
        content = json.loads(json.dumps(x.to_dict()))
        assert content['codes']['-1'] == x.counts[2**(bits - 1) - 1]


def test_unused_codes():
    layer = LSQLinear(4, 1, bits=2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0., 1., 1., -1.]]))
        layer.step_size.fill_(1.)
    layer._untouched = False
    found, = weight_codes(layer)
    assert found.counts == [0, 1, 1, 2] and found.unused == [-2]


def test_float_weights_are_refused():
    with pytest.raises(ValueError, match='no layer .* quantized weights'):
        weight_codes(QSDTransformer(ARCH, weight_bits=None))


@pytest.mark.parametrize('bits', [2, 8])
def test_picture(bits, tmp_path):
    model = nn.ModuleDict(dict(
        backbone=QSDTransformer(ARCH, weight_bits=bits),
        head=LSQLinear(7, 6, bits=4)))
    layers = weight_codes(model)[-15:]
    files = plot_weights(layers, 'x', tmp_path / 'weights')
    assert [f.suffix for f in files] == ['.png', '.svg']
    text = files[1].read_text()
    lost = sum(bool(x.unused) for x in layers)
    assert f'{lost} of {len(layers)} layers leave codes unused' in text
    full = [x for x in layers if not x.unused]
    if full:
        plot_weights(full, 'x', tmp_path / 'full')
        assert 'every layer uses all' in (tmp_path / 'full.svg').read_text()
