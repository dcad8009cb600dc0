"""Registries that make mmqsdt known to the OpenMMLab frameworks.

Each is a child of mmengine's root registry. So a config of any framework
reaches a class by its prefix, as in ``type='mmqsdt.QSDTransformer'``, without
an import.
"""

from importlib import import_module

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

_HEADS = 'mmqsdt.models.heads'

# Subclasses of a framework's own classes: class -> (module, framework). They
# are imported on first use only.
FRAMEWORK_CLASSES = dict(
    SpikeLinearClsHead=(f'{_HEADS}.spike_linear_cls_head', 'mmpretrain'),
    SpikeRPNHead=(f'{_HEADS}.spike_rpn_head', 'mmdet'),
    SpikeRetinaHead=(f'{_HEADS}.spike_retina_head', 'mmdet'),
    SpikeConvFCBBoxHead=(f'{_HEADS}.spike_bbox_heads', 'mmdet'),
    SpikeShared2FCBBoxHead=(f'{_HEADS}.spike_bbox_heads', 'mmdet'),
    SpikeFCNMaskHead=(f'{_HEADS}.spike_mask_head', 'mmdet'),
    SpikeFPNHead=(f'{_HEADS}.spike_fpn_head', 'mmseg'),
)


def import_framework_class(name: str) -> type:
    """Import a class of ``FRAMEWORK_CLASSES``.

    Raises:
        ImportError: If its framework cannot be imported; names the remedy.
    """
    module, framework = FRAMEWORK_CLASSES[name]
    try:
        import_module(f'{framework}.models')
    except ImportError as error:
        raise ImportError(
            f'mmqsdt.{name} builds on {framework}, which cannot be imported '
            f'({error}). Install it: pip install "mmqsdt[all]"') from error
    return getattr(import_module(module), name)


def __getattr__(name: str) -> type:
    if name in FRAMEWORK_CLASSES:
        return import_framework_class(name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


class LazyRegistry(Registry):
    """A registry that imports framework-bound classes on first use."""

    def get(self, key: str) -> type | None:
        if key.split('.')[-1] in FRAMEWORK_CLASSES:
            import_framework_class(key.split('.')[-1])
        return super().get(key)


MODELS = LazyRegistry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmqsdt',
    locations=['mmqsdt.layers', 'mmqsdt.models', 'mmqsdt.distill'])
DATASETS = Registry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='mmqsdt',
    locations=['mmqsdt.data.events', 'mmqsdt.data.skip'])
HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='mmqsdt',
    locations=['mmqsdt.engine.hooks', 'mmqsdt.distill'])
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='mmqsdt',
    locations=['mmqsdt.engine.amp'])
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmqsdt',
    locations=['mmqsdt.data.transforms'])
