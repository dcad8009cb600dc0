"""What keeps mmqsdt running on the libraries, and scripts on mmqsdt."""

from ..utils.lazy import lazy
from .finder import find_operators
from .moved import install_moved

__all__ = ['find_operators', 'install', 'install_moved']
__getattr__, __dir__ = lazy(__name__, dict(install='.mmcv_ops'), __all__)
