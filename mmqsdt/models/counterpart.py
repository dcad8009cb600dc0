"""The ANN counterpart of a spiking model: float weights and ReLU."""

from copy import deepcopy

from mmengine.config import Config
from torch import nn

from ..layers import LSQWeight, SpikingNeuron

COUNTERPART = dict(weight_bits=None, neuron=dict(type='ReLU'))


def counterpart_config(cfg: Config) -> Config:
    """Return the config of the ANN counterpart: float weights and ReLU.

    Args:
        cfg (Config): Of a whole model. Changed are backbone, neck and heads
            of mmqsdt, and its layers in conv_cfg and act_cfg of others, at
            any depth.
    """
    cfg = deepcopy(cfg)

    def visit(part: dict | list) -> None:
        for value in part.values() if isinstance(part, dict) else part:
            if isinstance(value, (dict, list, tuple)):
                visit(value)
        kind = str(part.get('type')) if isinstance(part, dict) else ''
        if kind.startswith(('mmqsdt.QSD', 'mmqsdt.Spike')):
            for key, value in COUNTERPART.items():  # update() would merge
                part[key] = deepcopy(value)
        elif kind.startswith('mmqsdt.LSQ'):
            part['bits'] = None
        elif kind in ('mmqsdt.IELIF', 'mmqsdt.LIF'):
            part.clear()
            part['type'] = 'ReLU'

    visit(cfg.model)
    return cfg


def counterpart_model(model: nn.Module) -> nn.Module:
    """Copy a model with float weights and a ReLU for every neuron.

    Args:
        model (nn.Module): Of any kind.
    """
    model = deepcopy(model)
    for module in list(model.modules()):
        if isinstance(module, LSQWeight):
            module.bits = None
        for name, child in module.named_children():
            if isinstance(child, SpikingNeuron):
                module._modules[name] = nn.ReLU()
    return model
