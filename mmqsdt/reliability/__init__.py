"""What keeps a long training alive, and hostile files out.

docs/reliability.md has the promises and how they were tested.
"""

from .checkpoint_hook import ReliableCheckpointHook
from .non_finite import NonFiniteError, NonFiniteHook
from .small_batch import SmallBatchHook
from .stop import StopSignalHook

__all__ = [
    'NonFiniteError', 'NonFiniteHook', 'ReliableCheckpointHook',
    'SmallBatchHook', 'StopSignalHook'
]
