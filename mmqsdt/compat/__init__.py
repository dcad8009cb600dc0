"""Stand-ins for missing operators of mmcv and for moved modules."""

from importlib import import_module

from .finder import find_operators
from .moved import install_moved

__all__ = ['find_operators', 'install', 'install_moved']


def install() -> bool:
    """Put the stand-in where mmcv looks, unless the real one is there.

    Returns:
        bool: Whether the stand-in is in use.
    """
    return import_module('mmqsdt.compat.mmcv_ops').install()
