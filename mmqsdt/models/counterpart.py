"""The ANN counterpart of a spiking model: float weights and ReLU."""

from copy import deepcopy

from mmengine.config import Config
from torch import nn

from ..layers import LSQWeight, SpikingNeuron
from ..registry import MODELS
from ..utils.configs import parts

COUNTERPART = dict(weight_bits=None, neuron=dict(type='ReLU'))


def counterpart_config(cfg: Config) -> Config:
    """Return the config of the ANN counterpart: float weights and ReLU.

    Args:
        cfg (Config): Of a whole model. Changed are backbone, neck and heads
            of mmqsdt, and its layers in conv_cfg and act_cfg of others, at
            any depth, by name or by class; not a neuron that a module of
            another's makes by itself, see :func:`check_counterpart`.
    """
    cfg = deepcopy(cfg)
    for part in parts(cfg.model):
        kind = part.get('type')
        if isinstance(kind, str) and kind.startswith('mmqsdt.'):
            kind = MODELS.get(kind)
        if not isinstance(kind, type):
            continue
        if issubclass(kind, SpikingNeuron):
            part.clear()
            part['type'] = 'ReLU'
        elif issubclass(kind, LSQWeight):
            part['bits'] = None
        elif kind.__module__.startswith('mmqsdt.models.'):
            for key, value in COUNTERPART.items():  # update() would merge
                part[key] = deepcopy(value)
    return cfg


def check_counterpart(model: nn.Module) -> nn.Module:
    """Return a model that is to be an ANN, if it is one.

    Raises:
        ValueError: If a spiking neuron is left in it.
    """
    for path, module in model.named_modules():
        if isinstance(module, SpikingNeuron):
            raise ValueError(
                f'expected an ANN, got a spiking neuron at {path or "the top"}'
                f' ({type(module).__name__}): the config does not name it, so '
                'a module makes it by itself. Have that module take its '
                "neuron from the config (act_cfg=dict(type='mmqsdt.IELIF')), "
                'or make the ANN of a built model with '
                'mmqsdt.models.counterpart.counterpart_model')
    return model


def counterpart_model(model: nn.Module) -> nn.Module:
    """Copy a model with float weights and a ReLU for every neuron.

    Args:
        model (nn.Module): Of any kind.
    """
    if isinstance(model, SpikingNeuron):
        return nn.ReLU()
    model = deepcopy(model)
    for module in list(model.modules()):
        if isinstance(module, LSQWeight):
            module.bits = None
        for name, child in module._modules.items():  # one under two names, too
            if isinstance(child, SpikingNeuron):
                module._modules[name] = nn.ReLU()
    return model
