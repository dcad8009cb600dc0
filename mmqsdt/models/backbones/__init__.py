from .qsd_transformer import ARCHS, QSDTransformer, create_backbone

__all__ = ['ARCHS', 'QSDTransformer', 'create_backbone']
