"""Puts the stand-in for mmcv's compiled operators where mmcv looks for it.

Nothing is imported before somebody asks: mmcv, and PyTorch with it, take
seconds.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from types import ModuleType

NAME = 'mmcv._ext'


class OperatorFinder(MetaPathFinder, Loader):
    """Finds ``mmcv._ext`` where mmcv has none of its own."""

    def find_spec(self, name: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        """Ours, or None."""
        if name != NAME or PathFinder.find_spec(name, path) is not None:
            return None
        return spec_from_loader(name, self, origin='mmqsdt')

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the stand-in, which says once that it is there."""
        return import_module('mmqsdt.compat.mmcv_ops').make_stand_in()

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


def find_operators() -> None:
    """Have Python find the stand-in, unless the real operators are there."""
    if not any(isinstance(each, OperatorFinder) for each in sys.meta_path):
        sys.meta_path.insert(0, OperatorFinder())
