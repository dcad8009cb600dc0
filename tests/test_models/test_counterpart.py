"""The ANN counterpart of a config, and of a model."""

import torch
from mmengine.config import Config
from torch import nn

from mmqsdt.layers import IELIF, ConvUnit, LSQConv2d
from mmqsdt.models.counterpart import counterpart_config, counterpart_model


def test_layers_in_networks_of_others():
    cfg = Config(dict(model=dict(
        type='ResNet',
        conv_cfg=dict(type='mmqsdt.LSQConv2d', bits=4),
        act_cfg=[dict(type='mmqsdt.IELIF', levels=8), dict(type='GELU')],
        head=dict(type='mmqsdt.SpikeLinearClsHead', num_classes=3))))
    assert counterpart_config(cfg).model == dict(
        type='ResNet',
        conv_cfg=dict(type='mmqsdt.LSQConv2d', bits=None),
        act_cfg=[dict(type='ReLU'), dict(type='GELU')],
        head=dict(type='mmqsdt.SpikeLinearClsHead', num_classes=3,
                  weight_bits=None, neuron=dict(type='ReLU')))
    assert cfg.model.conv_cfg.bits == 4  # a copy


def test_a_model_and_its_counterpart_have_the_same_weights():
    model = nn.Sequential(IELIF(), ConvUnit(3, 4, 3, dict(
        type='mmqsdt.IELIF'), weight_bits=2)).eval()
    ann, x = counterpart_model(model), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        ann(x), model[1].norm(nn.functional.conv2d(
            x.relu(), model[1].conv.weight, padding=1)))
    assert isinstance(model[0], IELIF) and model[1].conv.bits == 2
    assert isinstance(ann[1].conv, LSQConv2d)
