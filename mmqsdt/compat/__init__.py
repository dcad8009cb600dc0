"""What keeps mmqsdt running on the libraries as they are."""

from .mmcv_ops import install

__all__ = ['install']
