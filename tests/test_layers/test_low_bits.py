"""Ternary and one-bit weights: training, files, codes that are counted."""

import json
from copy import deepcopy

import pytest
import torch
from mmcv.cnn.utils import fuse_conv_bn
from torch import nn

from mmqsdt import QSDTransformer
from mmqsdt.checkpoints import pack
from mmqsdt.checkpoints.packing import (
    load_packed,
    pack_codes,
    packed_size,
    quantized_layers,
    read_packed,
    unpack_codes,
)
from mmqsdt.deploy import describe
from mmqsdt.engine.calibrate import fit_step_sizes
from mmqsdt.layers import LSQConv2d, LSQLinear, LSQWeight
from mmqsdt.layers.lsq import code_values, code_width
from mmqsdt.measure.codes import weight_codes
from mmqsdt.measure.energy import measure_energy
from mmqsdt.measure.weights_plot import plot_weights

LOW = pytest.mark.parametrize('bits', [1, 'ternary'])
CODES = {1: [-1, 1], 'ternary': [-1, 0, 1]}
ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(1, 1), num_heads=2)


def layer_of(bits: int | str, weight: torch.Tensor,
             step: torch.Tensor) -> LSQLinear:
    layer = LSQLinear(weight.shape[1], len(weight), bits=bits, bias=False)
    layer.load_state_dict(dict(weight=weight, step_size=step))
    return layer


# Layers.


@LOW
def test_codes_by_hand(bits):
    weight = torch.tensor([[-9., -.51, -.5, -.01, 0., .01, .5, .51, 9.]])
    layer = layer_of(bits, weight, torch.ones(1))
    expected = {1: [-1, -1, -1, -1, 1, 1, 1, 1, 1],
                'ternary': [-1, -1, 0, 0, 0, 0, 0, 1, 1]}[bits]
    assert layer.integer_weight().tolist() == [expected]
    assert list(code_values(bits)) == CODES[bits]
    assert torch.equal(layer.quantized_weight(), torch.tensor([expected]) * 1.)


@LOW
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_gradients_follow_the_formula(bits, dtype):
    """By autograd, straight through the rounding or the sign."""
    # Ratios: outside, at, and inside both bounds, around and at every edge.
    ratio = torch.tensor([-3., -1., -.75, -.5, -.25, 0., .25, .5, .75, 1.,
                          3.], dtype=dtype)
    step = torch.tensor([.5, 2.], dtype=dtype)
    layer = LSQLinear(11, 2, bits=bits, bias=False).to(dtype)
    layer.load_state_dict(dict(weight=ratio * step[:, None], step_size=step))
    upstream = torch.arange(1., 23., dtype=dtype).view(2, 11)
    layer.quantized_weight().backward(upstream)

    weight = (ratio * step[:, None]).requires_grad_()
    scale = step.clone().requires_grad_()
    found = weight / scale[:, None]
    bound = found.detach().clamp(-1, 1)
    # Not torch.clamp, whose gradient at the bounds depends on the version.
    clamped = torch.where(found.detach() == bound, found, bound)
    code = torch.where(weight >= 0, 1., -1.).to(dtype) if bits == 1 else \
        clamped.round()
    code = clamped + (code - clamped).detach()
    (code * scale[:, None]).backward(upstream)
    assert torch.equal(layer.weight.grad, weight.grad)
    torch.testing.assert_close(
        layer.step_size.grad, scale.grad / 22**.5, rtol=1e-6, atol=0)


@LOW
def test_first_step_size(bits):
    layer = LSQConv2d(3, 5, 3, bits=bits)
    mean = layer.weight.abs().mean()
    expected = mean if bits == 1 else 2 * mean
    assert torch.equal(layer.step_size, expected.expand(5))


def test_one_bit_starts_at_the_least_error():
    torch.manual_seed(0)
    layer = LSQLinear(1000, 1, bits=1, bias=False)
    error = {
        share: float((layer_of(1, layer.weight.detach(), share *
                               layer.step_size.detach()).quantized_weight()
                      - layer.weight).square().sum())
        for share in (.9, 1., 1.1)}
    assert min(error, key=error.get) == 1.


@LOW
def test_training_moves_weights_and_steps(bits):
    torch.manual_seed(0)
    model = nn.Sequential(LSQLinear(8, 16, bits=bits), nn.ReLU(),
                          LSQLinear(16, 1, bits=bits))
    x = torch.randn(64, 8)
    y = x[:, :1] - x[:, 1:2]
    optimizer = torch.optim.Adam(model.parameters(), .01)
    losses = []
    for _ in range(60):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < .5 * losses[0]
    for layer in (model[0], model[2]):
        assert set(layer.integer_weight().unique().tolist()) <= set(
            CODES[bits])
        assert (layer.positive_step_size() > 0).all()


@LOW
def test_steps_of_the_least_error_for_a_calibration(bits):
    layer = LSQLinear(200, 4, bits=bits)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([.1, 1., 3., 10.]).view(4, 1))
    before = (layer.quantized_weight() - layer.weight).square().sum(1)
    fit_step_sizes(layer)
    after = (layer.quantized_weight() - layer.weight).square().sum(1)
    assert after.sum() < before.sum()
    if bits == 1:  # the least is known: mean|w| of the channel
        torch.testing.assert_close(
            layer.step_size, layer.weight.abs().mean(1), rtol=.03, atol=0)


# Norms folded by others.


@LOW
@torch.no_grad()
def test_folded_norms(bits):
    unit = nn.Sequential(LSQConv2d(4, 8, 3, padding=1, bits=bits),
                         nn.BatchNorm2d(8)).eval()
    nn.init.uniform_(unit[1].running_var, .5, 2.)
    nn.init.normal_(unit[1].weight)
    x = torch.randn(2, 4, 6, 6)
    folded = fuse_conv_bn(deepcopy(unit))
    # Rounded once more, by the folded factor.
    torch.testing.assert_close(folded(x), unit(x), rtol=1e-5, atol=1e-5)
    nn.init.zeros_(unit[1].weight)
    if bits == 1:
        with pytest.raises(ValueError, match='1 bit does not hold'):
            fuse_conv_bn(unit)
    else:
        assert not fuse_conv_bn(unit)(x).any()


# Files.


@LOW
@pytest.mark.parametrize('count', [1, 4, 5, 6, 8, 31, 1000])
def test_packed_codes_come_back(bits, count):
    codes = torch.tensor(CODES[bits], dtype=torch.int8)[
        torch.randint(len(CODES[bits]), (count, ))]
    packed = pack_codes(codes, bits)
    per_byte = 8 if bits == 1 else 5
    assert len(packed) == packed_size(bits, (count, )) == -(-count // per_byte)
    back = unpack_codes(packed, bits, (count, 1))
    assert back.dtype == torch.int8
    assert torch.equal(back, codes.view(count, 1))


def test_layout_by_hand():
    codes = torch.tensor([1, -1, 0, 0, 1, -1], dtype=torch.int8)
    # 2 + 0 * 3 + 1 * 9 + 1 * 27 + 2 * 81, and the digits of a lone -1.
    assert pack_codes(codes, 'ternary') == bytes([200, 0])
    codes = torch.tensor([1, -1, -1, 1], dtype=torch.int8)
    assert pack_codes(codes, 1) == bytes([0b1001])
    with pytest.raises(ValueError, match='243 is no byte of five trits'):
        unpack_codes(bytes([1, 243]), 'ternary', (10, ))


@LOW
@pytest.mark.parametrize('huffman', [True, False])
def test_packed_models_come_back(bits, huffman, tmp_path):
    models = [QSDTransformer(ARCH, weight_bits=bits).eval() for _ in 'ab']
    path = tmp_path / 'x.safetensors'
    size = pack(models[0], path, huffman=huffman)
    load_packed(models[1], path)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(models[0](x)[0], models[1](x)[0])
    layers = quantized_layers(models[0])
    numbers = [layer.weight.numel() for layer in layers.values()]
    assert size.codes == pytest.approx(
        sum(numbers) * code_width(bits) / 8, abs=1)
    metadata = read_packed(path)[1]
    assert metadata['format_version'] == '2'
    assert {layer['bits'] for layer in metadata['layers'].values()} == {bits}
    with pytest.raises(ValueError, match='in the file, 4 bits'):
        load_packed(QSDTransformer(ARCH), path)


# What is said of them.


@LOW
def test_what_is_said(bits, tmp_path):
    model = QSDTransformer(ARCH, weight_bits=bits).eval()
    rows = describe(model)
    assert {row.bits for row in rows} == {bits, None}  # products have none
    lines = str(rows).splitlines()
    assert len({line.index(word) for line, word in (
        (lines[0], 'operation'), (lines[1], 'MAC'), (lines[2], 'AC'))}) == 1
    found = weight_codes(model)
    for layer in found:
        codes = model.get_submodule(layer.layer).integer_weight()
        assert list(layer.codes) == CODES[bits]
        assert layer.counts == [int((codes == c).sum()) for c in CODES[bits]]
        assert layer.entropy <= layer.bound + 1e-12
        assert json.loads(json.dumps(layer.to_dict()))['bits'] == bits
    plot_weights(found, 'x', tmp_path / 'weights')
    assert f'bits={bits}' in repr(
        next(m for m in model.modules() if isinstance(m, LSQWeight)))


@LOW
def test_energy(bits):
    model = QSDTransformer(ARCH, weight_bits=bits).eval()
    report = measure_energy(model, [torch.randn(1, 3, 32, 32)])
    width = {1: 1, 'ternary': 1.6}[bits]
    assert code_width(bits) == width
    for layer in report.layers:
        if layer.bits == bits:
            assert layer.energy['bits_bitwise'] == pytest.approx(
                layer.energy['counted_bitwise'] * width / 32)
