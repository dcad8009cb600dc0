"""How the time of a whole model divides between its parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

from torch import nn

from .runners import CLOCKS

# Parts of the models of the three frameworks, and the method that runs one
# in a prediction, its post-processing included.
PARTS = dict(
    backbone='forward',
    neck='forward',
    rpn_head='predict',
    roi_head='predict',
    bbox_head='predict',
    decode_head='forward')


@contextmanager
def timed_parts(model: nn.Module, clock: str) -> Iterator[dict[str, float]]:
    """Time the parts of a model while it runs.

    Args:
        model (nn.Module): A detector or a segmenter. What it calls of
            another model is not seen.
        clock (str): Key of ``CLOCKS``.

    Yields:
        dict[str, float]: Seconds of each part that was called, so far.
    """
    now = CLOCKS[clock]
    seconds: dict[str, float] = {}

    def timed(part: str, method: Callable) -> Callable:

        @wraps(method)
        def call(*args, **kwargs):
            start = now()
            try:
                return method(*args, **kwargs)
            finally:
                seconds[part] = seconds.get(part, 0.) + now() - start

        return call

    wrapped = [(getattr(model, part), part, method)
               for part, method in PARTS.items()
               if getattr(model, part, None) is not None]
    for module, part, method in wrapped:
        setattr(module, method, timed(part, getattr(module, method)))
    try:
        yield seconds
    finally:
        for module, _, method in wrapped:
            delattr(module, method)
