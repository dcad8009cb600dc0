from .hook import FGDistillHook
from .losses import FGDLoss, LogitDistillLoss, fgd_distance, fgd_loss
from .recorder import Recorder, Recording, Tap, find_taps

__all__ = [
    'FGDLoss', 'FGDistillHook', 'LogitDistillLoss', 'Recorder', 'Recording',
    'Tap', 'fgd_distance', 'fgd_loss', 'find_taps'
]
