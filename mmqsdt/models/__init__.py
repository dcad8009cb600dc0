from .backbones import ARCHS, QSDTransformer, create_backbone
from .necks import SpikeFPN
from .spike_units import HEAD_NEURON, SpikeConv, SpikeLinear

__all__ = [
    'ARCHS', 'HEAD_NEURON', 'QSDTransformer', 'SpikeConv', 'SpikeFPN',
    'SpikeLinear', 'create_backbone'
]
