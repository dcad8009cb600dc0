"""Find modules under their former names, for scripts that import those."""

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Former module of mmqsdt -> the modules that have its names now. For a former
# package they are packages, with modules of the same names in them.
MOVED = dict(
    amp=['engine.amp'],
    analysis=['measure'],
    checkpoint=['checkpoints.read', 'checkpoints.fit'],
    convert=['checkpoints.convert'],
    datasets=['data'],
    environment=['cli.check_env'],
    hooks=['engine.hooks.draw_predictions', 'engine.hooks'],
    launch=['cli.common', 'utils', 'data.sources', 'checkpoints'],
    monitor=['engine.hooks.monitor'],
    predict=['engine.predict'],
    processes=['engine.distributed', 'engine.hooks'],
    publish=['cli.publish'],
    reliability=['engine.hooks', 'engine', 'checkpoints'],
    smoke=['cli.smoke'],
    zoo=['cli.zoo'])
PACKAGES = ('analysis', 'datasets', 'reliability')


class MovedModules(MetaPathFinder, Loader):
    """Import the modules of ``MOVED``, and those inside former packages."""

    def find_spec(self, name: str, path=None, target=None
                  ) -> ModuleSpec | None:
        """Return a spec for a moved module, else None."""
        parts = name.split('.')
        if parts[0] != 'mmqsdt' or len(parts) < 2 or parts[1] not in MOVED:
            return None
        if len(parts) > 2 and parts[1] not in PACKAGES:
            return None
        return ModuleSpec(name, self, is_package=name.removeprefix(
            'mmqsdt.') in PACKAGES)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make a module that looks its names up where they are now."""
        old, *inside = spec.name.removeprefix('mmqsdt.').split('.')
        places = ['.'.join(['mmqsdt', place, *inside])
                  for place in MOVED[old]]
        found = list(filter(None, map(_import_if_there, places)))
        if not found:
            raise ModuleNotFoundError(f'No module named {spec.name!r}',
                                      name=spec.name)
        names = ' or '.join(each.__name__ for each in found)
        warnings.warn(f'{spec.name} is now {names}', DeprecationWarning,
                      stacklevel=2)
        module = ModuleType(spec.name)

        def look_up(name: str) -> object:
            for each in found:
                if hasattr(each, name):
                    return getattr(each, name)
            raise AttributeError(f'{names} has no attribute {name!r}')

        module.__getattr__ = look_up
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the names are looked up elsewhere."""


def _import_if_there(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def install_moved() -> None:
    """Install the finder of moved modules.

    It comes first, because a checkout may still have empty folders of the
    old names.
    """
    if not any(isinstance(each, MovedModules) for each in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())
