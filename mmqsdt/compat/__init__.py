"""What keeps mmqsdt running on the libraries, and scripts on mmqsdt."""

from .mmcv_ops import install
from .moved import install_moved

__all__ = ['install', 'install_moved']
