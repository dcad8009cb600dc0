"""Stand-ins for missing operators of mmcv and for moved modules."""

from .mmcv_ops import install
from .moved import install_moved

__all__ = ['install', 'install_moved']
