"""Quantized Spike-driven Transformer for OpenMMLab.

``import mmqsdt`` is quick: every name is imported when it is asked for, by
attribute or by ``type='mmqsdt.X'`` in a config, and PyTorch with the first.
Only what builds on MMPretrain, MMDetection or MMSegmentation needs those.
"""

from . import compat as _compat
from .utils.lazy import lazy as _lazy
from .utils.versions import warn_untested_versions as _warn
from .version import __version__

_compat.find_operators()  # before anything imports mmcv.ops
_compat.install_moved()
_warn()

# Public name -> the room that has it.
_PLACES = dict(
    FGDLoss='.distill', FGDistillHook='.distill', IELIF='.layers',
    LIF='.layers', LSQConv2d='.layers', LSQLinear='.layers',
    QSDTransformer='.models', SpikeConvFCBBoxHead='.registry',
    SpikeFCNMaskHead='.registry', SpikeFPN='.models',
    SpikeFPNHead='.registry', SpikeLinearClsHead='.registry',
    SpikeMonitorHook='.engine.hooks', SpikeRPNHead='.registry',
    SpikeRetinaHead='.registry', SpikeShared2FCBBoxHead='.registry',
    convert_reference_checkpoint='.checkpoints', create_backbone='.models',
    get_config_path='.utils', load='.engine.load',
    load_packed='.checkpoints')
# The rooms themselves, and what scripts took from here before.
_ROOMS = ('checkpoints', 'cli', 'compat', 'data', 'deploy', 'distill',
          'engine', 'layers', 'measure', 'models', 'registry', 'utils')
__all__ = [*_PLACES, '__version__']
__getattr__, __dir__ = _lazy(
    __name__,
    dict(_PLACES, **{f'{room}.': f'.{room}' for room in _ROOMS},
         FRAMEWORK_CLASSES='.registry', import_framework_class='.registry',
         warn_untested_versions='.utils'),
    __all__)
