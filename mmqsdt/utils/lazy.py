"""Import the names of a package on first use."""

import sys
from collections.abc import Callable
from importlib import import_module


def lazy(package: str, places: dict[str, str], public: list[str]
         ) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package.

    PyTorch takes seconds to import, and ``mmqsdt -h`` does not need it.

    Args:
        package (str): Its ``__name__``.
        places (dict[str, str]): Name -> module that has it, relative to the
            package, such as '.models'. A name that ends in a dot stands for
            the module itself.
        public (list[str]): Names that ``dir()`` lists.
    """

    def look_up(name: str) -> object:
        if f'{name}.' in places:
            return import_module(places[f'{name}.'], package)
        if name not in places:
            raise AttributeError(f'module {package!r} has no attribute '
                                 f'{name!r}')
        value = getattr(import_module(places[name], package), name)
        setattr(sys.modules[package], name, value)  # found at once next time
        return value

    return look_up, lambda: sorted(public)
