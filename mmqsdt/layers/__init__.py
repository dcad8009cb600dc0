from .attention import SpikeAttention, linear_attention
from .conv_unit import ConvUnit
from .ie_lif import IELIF, build_neuron
from .lif import LIF, SpikingNeuron
from .lsq import LSQConv2d, LSQLinear, LSQWeight, settle_step_sizes
from .rep_conv import BatchNormPad, RepConv
from .sep_conv import SepConv

__all__ = [
    'BatchNormPad', 'ConvUnit', 'IELIF', 'LIF', 'LSQConv2d',
    'LSQLinear', 'LSQWeight', 'RepConv', 'SepConv', 'SpikeAttention',
    'SpikingNeuron', 'build_neuron', 'linear_attention', 'settle_step_sizes'
]
