"""What both sides of a comparison leave out, carry and say."""

import pytest
import torch
from mmengine.config import Config
from test_energy import COUNTS, TwoLayers, as_if_trained, backbone
from torch import nn

from mmqsdt.layers import IELIF, ConvUnit, SpikeAttention
from mmqsdt.measure.costs import EnergyCosts
from mmqsdt.measure.energy import measure_energy
from mmqsdt.measure.energy_table import notes, print_report
from mmqsdt.measure.regions import fix_regions
from mmqsdt.measure.zeros import apply_weight

IE_LIF = dict(type='mmqsdt.IELIF')


# Zeros.


def test_products_without_a_zero_by_hand():
    model = TwoLayers().eval()
    with torch.no_grad():  # one code of 27 that is no zero: the middle
        model.conv.conv.weight.zero_()
        model.conv.conv.weight[1, 0, 1, 1] = 1.
        model.conv.conv.step_size.fill_(.25)
    image = (COUNTS * .25).view(1, 1, 3, 3)
    report = measure_energy(model, [image], skip_zeros=True)
    stem, conv = report.layers
    # 5 pixels are no zero, and one of the stem's two weights is.
    assert stem.nonzero == dict(ann=5, thermometer=5, bitwise=5)
    assert conv.nonzero == dict(ann=5, thermometer=11, bitwise=6)
    total = report.totals()['total']
    assert total['ann_int4'] == pytest.approx((5 + 5) * .15e-9)
    assert total['integer_thermometer'] == pytest.approx(
        (5 * .5 + 11 * .1) * 1e-9)
    dense = measure_energy(model, [image]).totals()['total']
    assert total['memory_bitwise'] - total['integer_bitwise'] == \
        pytest.approx(dense['memory_bitwise'] - dense['integer_bitwise'])
    for measure in dense:  # floats have no zero codes
        assert (total[measure] == dense[measure]) != (
            'int' in measure or measure.startswith('memory')), measure


def test_codes_without_a_zero_change_nothing():
    """Then the additions are those that the spike form was seen to make."""
    model = as_if_trained(SpikeAttention(16, 2))
    for module in model.modules():
        if hasattr(module, 'integer_weight'):
            nn.init.ones_(module.weight)
    report = measure_energy(
        model, [torch.randn(2, 16, 4, 4)], skip_zeros=True)
    for layer in report.layers:
        for encoding, counts in layer.counted.items():
            if layer.reads == 'spike':
                assert layer.nonzero[encoding] == counts['ac'] > 0
        assert layer.nonzero['ann'] <= layer.ann_macs


def test_product_of_the_ann_without_zeros():
    model = as_if_trained(SpikeAttention(16, 2))
    seen = {}
    for name in 'qkv':
        getattr(model, f'{name}_neuron').register_forward_hook(
            lambda m, args, out, name=name: seen.update(
                {name: (out != 0).unflatten(1, (2, 8)).double()}))
    x = torch.randn(1, 16, 4, 4)
    product = measure_energy(model, [x], skip_zeros=True).layers[9]
    assert product.kind == 'q (k^T v)'
    q, k, v = seen['q'], seen['k'].sum(2), seen['v'].sum(2)
    assert product.nonzero['ann'] == (k * v).sum() + 8 * q.sum() > 0


@pytest.mark.parametrize('layer, shape', [
    (nn.Conv1d(4, 6, 3, 2, 1, groups=2), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, padding='same', dilation=2), (2, 4, 9, 8)),
    (nn.Conv3d(4, 6, 3, padding=1), (2, 4, 4, 4, 4)),
    (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (2, 4, 5, 6)),
    (nn.Linear(4, 6), (2, 5, 4)),
])
def test_apply_weight_is_the_layer(layer, shape):
    x = torch.randn(shape)
    layer.bias = None
    assert torch.equal(apply_weight(layer, x, layer.weight), layer(x))


# Time.


def test_membranes_travel_between_time_steps():
    units = [ConvUnit(1, 2, 1, dict(IE_LIF), time_steps=t) for t in (1, 2)]
    x = torch.rand(2, 1, 2, 2)
    bit = 100 / 64 * 1e-9
    for unit, carried in zip(units, (0, 4 / 2)):
        layer, = measure_energy(nn.Sequential(unit).eval(), [x]).layers
        # Two steps came as a batch of two: 8 potentials, of which the 4 of
        # the first step are carried on.
        assert layer.membrane == carried
        weights, counts = 2 * 4, 2 * 4 * 4
        assert layer.energy['memory_thermometer'] == pytest.approx(
            layer.energy['integer_thermometer'] + bit * (
                weights + counts + 2 * carried * 32))


# Neurons.


def test_neurons_that_carry_nothing_are_flagged():
    model = nn.Sequential(IELIF(), nn.Conv2d(1, 1, 1), IELIF(),
                          nn.Conv2d(1, 1, 1), IELIF(), nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        for conv, bias in ((model[1], 9.), (model[3], -9.)):
            conv.weight.fill_(1.)
            conv.bias.fill_(bias)
    report = measure_energy(model.eval(), [torch.rand(1, 1, 8, 8)])
    assert report.flagged() == {'2': 'saturated', '4': 'silent'}
    assert [report.neurons[name].rate for name in '24'] == [1, 0]


def test_the_row_to_quote_comes_first(capsys):
    report = measure_energy(backbone(), [torch.randn(1, 3, 32, 32)])
    texts = []
    for layers in (False, True):
        print_report(report, layers)
        texts.append(capsys.readouterr().out)
        for bits in (8, 4):
            ratio = report.ratios(bits)['memory_thermometer']
            assert f'int{bits} ANN takes {ratio:.2f} times' in texts[-1]
    assert 'Layers' not in texts[0]
    assert texts[1].index('to quote') < texts[1].index('Layers')
    assert 'against an ANN of 32' in notes(report)


def test_costs_say_where_they_are_from():
    assert EnergyCosts().source == 'published: Horowitz, ISSCC 2014, 45 nm'
    assert 'no source' in EnergyCosts(int32_add_pj=.2).source
    assert EnergyCosts(ac_pj=1., source='a chip').source == 'a chip'
    # Horowitz has 3.1 pJ for a product of 32 bits; scaled from 8 it is 3.2.
    assert EnergyCosts().integer_mac(32, 32) == pytest.approx(3.1, rel=.1)
    with pytest.raises(ValueError, match='positive'):
        EnergyCosts(weight_bit_pj=0)


# Regions.


def detector(**rpn) -> Config:
    return Config(dict(model=dict(type='Wrapper', detector=dict(test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=20, min_bbox_size=0,
                 nms=dict(type='nms', iou_threshold=.7), **rpn),
        rcnn=dict(score_thr=.05, max_per_img=9,
                  nms=dict(type='soft_nms', iou_threshold=.5)))))))


def test_regions_are_the_best():
    cfg = detector()
    assert fix_regions(cfg) == (20, 9)
    test_cfg = cfg.model.detector.test_cfg
    assert test_cfg.rpn.nms_pre == 50 and test_cfg.rcnn.score_thr < 0
    assert test_cfg.rpn.nms == test_cfg.rcnn.nms
    assert fix_regions(cfg, 70) == (70, 9)
    assert (test_cfg.rpn.nms_pre, test_cfg.rpn.max_per_img) == (70, 70)
    with pytest.raises(ValueError, match='at least 1 region, got -1'):
        fix_regions(cfg, -1)


@pytest.mark.parametrize('test_cfg', [None, dict(mode='whole'),
                                      dict(nms_pre=1000, score_thr=.05)])
def test_one_stage_has_no_regions(test_cfg):
    cfg = Config(dict(model=dict(type='X', test_cfg=test_cfg)))
    assert fix_regions(cfg) == (0, 0)
    assert cfg.model.test_cfg == test_cfg
