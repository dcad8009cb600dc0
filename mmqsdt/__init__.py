"""Quantized Spike-driven Transformer for OpenMMLab.

``import mmqsdt`` needs torch, mmengine, mmcv and spikingjelly only. What
builds on MMPretrain, MMDetection or MMSegmentation is imported when asked
for, by attribute or by ``type='mmqsdt.X'`` in a config.
"""

from . import compat

compat.install()  # before anything imports mmcv.ops
compat.install_moved()

from .checkpoints import convert_reference_checkpoint, load_packed  # noqa: E402
from .distill import FGDistillHook, FGDLoss  # noqa: E402
from .engine.hooks import SpikeMonitorHook  # noqa: E402
from .layers import IELIF, LIF, LSQConv2d, LSQLinear  # noqa: E402
from .models import QSDTransformer, SpikeFPN  # noqa: E402
from .registry import FRAMEWORK_CLASSES, import_framework_class  # noqa: E402
from .utils import get_config_path, warn_untested_versions  # noqa: E402
from .version import __version__  # noqa: E402

warn_untested_versions()


def __getattr__(name: str) -> type:
    if name in FRAMEWORK_CLASSES:
        return import_framework_class(name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = [
    'FGDLoss', 'FGDistillHook', 'IELIF', 'LIF', 'LSQConv2d', 'LSQLinear',
    'QSDTransformer', 'SpikeFPN', 'SpikeMonitorHook', '__version__',
    'convert_reference_checkpoint', 'get_config_path', 'load_packed',
    *FRAMEWORK_CLASSES
]
