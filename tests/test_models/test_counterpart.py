"""The ANN counterpart of a config, and of a model."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmqsdt.layers import IELIF, ConvUnit, LSQConv2d
from mmqsdt.models.backbones.qsd_transformer import QSDTransformer
from mmqsdt.models.counterpart import (
    COUNTERPART,
    check_counterpart,
    counterpart_config,
    counterpart_model,
)


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


def test_types_that_are_classes():
    cfg = Config(dict(model=dict(
        type=nn.Sequential, conv_cfg=dict(type=LSQConv2d, bits=2),
        backbone=dict(type=QSDTransformer, arch='15m'),
        act_cfg=dict(type=IELIF, threshold='learned'),
        norm_cfg=dict(type=nn.BatchNorm2d))))
    assert counterpart_config(cfg).model == dict(
        type=nn.Sequential, conv_cfg=dict(type=LSQConv2d, bits=None),
        backbone=dict(type=QSDTransformer, arch='15m', **COUNTERPART),
        act_cfg=dict(type='ReLU'), norm_cfg=dict(type=nn.BatchNorm2d))


@pytest.mark.parametrize('name', ['FPN', 'FCNMaskHead'])
def test_heads_of_others_become_anns(name):
    pytest.importorskip('mmdet.models')
    layers = dict(conv_cfg=dict(type='mmqsdt.LSQConv2d'), norm_cfg=dict(
        type='BN'), act_cfg=dict(type='mmqsdt.IELIF'))
    own = dict(in_channels=[4, 4], out_channels=4, num_outs=2) \
        if name == 'FPN' else dict(in_channels=4, conv_out_channels=4)
    if name != 'FPN':
        del layers['act_cfg']
    cfg = Config(dict(model=dict(type=f'mmdet.{name}', **own, **layers)))
    model = MODELS.build(counterpart_config(cfg).model)
    assert check_counterpart(model) is model
    assert all(m.bits is None for m in model.modules()
               if isinstance(m, LSQConv2d))


class OwnNeuron(nn.Module):
    """Makes a neuron that no config names, and has it under two names."""

    def __init__(self):
        super().__init__()
        self.a = self.b = IELIF()


def test_a_neuron_that_is_left_is_an_error():
    model = nn.Sequential(OwnNeuron())
    with pytest.raises(ValueError, match=r'a spiking neuron at 0\.a \(IELIF'):
        check_counterpart(model)
    check_counterpart(counterpart_model(model))
    check_counterpart(counterpart_model(IELIF()))


def test_a_model_and_its_counterpart_have_the_same_weights():
    model = nn.Sequential(IELIF(), ConvUnit(3, 4, 3, dict(
        type='mmqsdt.IELIF'), weight_bits=2)).eval()
    ann, x = counterpart_model(model), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        ann(x), model[1].norm(nn.functional.conv2d(
            x.relu(), model[1].conv.weight, padding=1)))
    assert isinstance(model[0], IELIF) and model[1].conv.bits == 2
    assert isinstance(ann[1].conv, LSQConv2d)
