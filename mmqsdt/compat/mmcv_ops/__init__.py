"""A stand-in for ``mmcv._ext``, mmcv's compiled operators.

A plain ``pip install`` of mmcv has no compiled operators, and MMDetection
cannot even be imported then. This package has the operators that the
frameworks' stock configs reach, over torchvision's operators and plain
PyTorch, for CPU and CUDA. They have the signatures of mmcv's extension:
results are written into tensors that the caller allocated. Any other operator
raises an error that names it when it is called.
"""

import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from ..finder import NAME, OperatorFinder, find_operators
from . import boxes, deformable, losses, rare, regions


def install() -> bool:
    """Put the stand-in where mmcv looks, unless the real one is there.

    Returns:
        bool: Whether the stand-in is in use.
    """
    if NAME not in sys.modules:
        spec = find_spec(NAME)
        if spec is not None and not isinstance(spec.loader, OperatorFinder):
            return False
        find_operators()
        import_module(NAME)
    return isinstance(sys.modules[NAME], StandIn)


def make_stand_in() -> ModuleType:
    """Make the module, announced in one line."""
    if os.environ.get('RANK', '0') == '0':
        logging.getLogger('mmqsdt').warning(
            'mmcv has no compiled operators; mmqsdt uses torchvision and '
            'PyTorch instead')
    return StandIn(NAME)


class StandIn(ModuleType):
    """The module; operators that it lacks fail when they are called."""

    def __init__(self, name: str) -> None:
        super().__init__(name, __doc__)
        self.__spec__ = ModuleSpec(name, loader=None, origin=__file__)
        self.__file__ = __file__

    def __getattr__(self, op: str) -> Callable:
        if op.startswith('__'):
            raise AttributeError(op)
        return OPERATORS.get(op) or _missing(op)


def _missing(op: str) -> Callable:

    def fail(*args, **kwargs):
        raise NotImplementedError(
            'mmcv has no compiled operators, and the stand-in of mmqsdt lacks '
            f'{op!r}. Install an mmcv with compiled operators: a wheel that '
            'has them, or a build from source with MMCV_WITH_OPS=1 (see the '
            'installation page of mmcv)')

    return fail


def get_compiler_version() -> str:
    """Return what collect_env shows."""
    return 'none: operators over torchvision, by mmqsdt'


def get_compiling_cuda_version() -> str:
    """Return what collect_env shows."""
    return 'not available'


OPERATORS = {
    'get_compiler_version': get_compiler_version,
    'get_compiling_cuda_version': get_compiling_cuda_version,
    **{name: getattr(module, name)
       for module in (boxes, deformable, losses, rare, regions)
       for name in module.__all__}
}
