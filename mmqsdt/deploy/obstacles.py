"""Why nothing else can take the place of a module: what would be lost.

A folded layer, a norm that became part of a layer and a neuron that counts
do what the class of their module does, and nothing but that.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..layers import BatchNormPad, SpikeAttention, SpikingNeuron

# Where layers and norms compute what their name says.
EXACT = ('torch.nn.modules.', 'mmcv.cnn.bricks.wrappers.', 'mmqsdt.layers.')
# Code that is known not to take other ways for other values.
TRUSTED = ('torch.', 'torchvision.', 'mmcv.', 'mmengine.', 'mmdet.',
           'mmpretrain.', 'mmseg.', 'mmqsdt.')
OWN_FORWARD = 'it has a forward of its own'
# What a subclass may write anew: it does not change what is computed.
HARMLESS = {name for name in dir(nn.Module) if name.startswith('__')} - {
    '__call__', '__getattr__'} | {'extra_repr', 'reset_parameters', 'train',
                                  '_check_input_dim', '_version'}


def find_obstacle(module: nn.Module) -> str:
    """Why a module that is to run in evaluation has to stay; '' if not.

    Args:
        module (nn.Module): A layer, norm, neuron or attention; of others
            nothing is said.
    """
    if not isinstance(module, (_ConvNd, nn.Linear, _BatchNorm, BatchNormPad,
                               SpikingNeuron, SpikeAttention)):
        return ''
    if 'forward' in vars(module) or _is_changed(type(module)) and \
            not isinstance(module, SpikingNeuron):
        return OWN_FORWARD
    if module._forward_hooks or module._forward_pre_hooks:
        return 'it has hooks'
    if isinstance(module, _BatchNorm) and module.training:
        return 'it trains in evaluation too'
    return ''


def _is_changed(kind: type) -> bool:
    """Whether a class computes something else than the one it comes from."""
    before = []
    for each in kind.__mro__:
        if f'{each.__module__}.'.startswith(EXACT):
            known = {*dir(each), 'weight', 'bias'} - HARMLESS
            return any(vars(x).keys() & known for x in before)
        if each.__module__ != 'torch.nn.utils.parametrize':
            before.append(each)
    return True
