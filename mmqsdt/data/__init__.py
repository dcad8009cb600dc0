"""Data sets. A module is imported when one of its names is used."""

from importlib import import_module

_MODULES = dict(
    DIGITS_CLASSES='digits', prepare_digits='digits', EventFrames='events',
    SkipBroken='skip')


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f'.{_MODULES[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = list(_MODULES)
