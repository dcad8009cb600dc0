from .qsd_transformer import ARCHS, QSDTransformer

__all__ = ['ARCHS', 'QSDTransformer']
