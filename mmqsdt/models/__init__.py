from .backbones import ARCHS, QSDTransformer

__all__ = ['ARCHS', 'QSDTransformer']
