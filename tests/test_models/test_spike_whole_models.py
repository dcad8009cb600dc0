"""Spiking necks and heads at work inside the frameworks' own models."""

import pytest
import torch
from mmengine.registry import DefaultScope
from small_models import (
    CLASSES,
    MODEL,
    NEURON,
    RELU,
    build,
    one_loss,
    predict,
    random_data,
    scope_of,
    spike,
)
from torch import nn

from mmqsdt.deploy.program import find_layers
from mmqsdt.layers import LSQWeight, SpikingNeuron

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')


@pytest.fixture(scope='module', params=MODEL)
def name(request):
    return request.param


@pytest.fixture(scope='module')
def trained(name):
    """A 4-bit spiking model, its data and the losses of one step."""
    torch.manual_seed(0)
    model = build(name, spike(NEURON, 4))
    data = random_data(name)
    with DefaultScope.overwrite_default_scope(scope_of(name)):
        losses = one_loss(model, data)
        model.parse_losses(losses)[0].backward()
    return model, data, losses


def test_a_training_step_moves_every_weight(trained):
    model, _, losses = trained
    assert sum('loss' in key for key in losses) > 0
    for key, value in losses.items():
        for term in value if isinstance(value, list) else [value]:
            assert torch.isfinite(term).all(), key
    for key, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), key
        # The blocks behind a fresh layer scale of 1e-6 get next to nothing.
        assert p.grad.abs().sum() > 0 or key.startswith('backbone.'), key


def test_it_predicts(trained, name):
    model, data, _ = trained
    with DefaultScope.overwrite_default_scope(scope_of(name)):
        results = predict(model, data)
    assert len(results) == 2
    if name == 'semantic_fpn':
        assert results[0].pred_sem_seg.data.shape == (1, 64, 96)
        assert results[0].pred_sem_seg.data.max() < CLASSES
        return
    for result in results:
        found = result.pred_instances
        assert 0 < len(found) <= 5
        assert torch.isfinite(found.bboxes).all()
        assert ((found.labels >= 0) & (found.labels < CLASSES)).all()
        if name != 'retinanet':
            assert found.masks.shape == (len(found), *result.ori_shape)


def test_all_weights_have_four_bits(trained):
    model, _, _ = trained
    layers = {
        key: m
        for key, m in model.named_modules()
        if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))
    }
    floats = [
        key for key, m in layers.items()
        if not isinstance(m, LSQWeight) or m.bits != 4
    ]
    assert layers and floats == []


def test_neck_and_heads_read_nothing_but_spikes(trained):
    model, _, _ = trained
    real_valued = [
        key for key, entry in find_layers(model).items()
        if entry.neuron is None and not key.startswith('backbone.')
    ]
    assert real_valued == []


def test_heads_of_the_ann_counterpart_have_no_neuron(name):
    model = build(name, spike(RELU, None))
    assert not any(isinstance(m, SpikingNeuron) for m in model.modules())
    assert all(m.bits is None for m in model.modules()
               if isinstance(m, LSQWeight))
    with DefaultScope.overwrite_default_scope(scope_of(name)):
        losses = one_loss(model, random_data(name))
        total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
