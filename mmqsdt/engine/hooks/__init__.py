"""The hooks of a training; the distillation's is in ``mmqsdt.distill``."""

from .average_statistics import AverageStatisticsHook
from .channels_last import ChannelsLastHook
from .checkpoint_hook import ReliableCheckpointHook
from .draw_predictions import DrawPredictionsHook
from .eager_first_step import EagerFirstStepHook
from .integer_training import IntegerTrainingHook
from .label_values import LabelValuesHook
from .monitor import SpikeMonitorHook
from .non_finite import NonFiniteError, NonFiniteHook
from .small_batch import SmallBatchHook
from .stop import StopSignalHook

__all__ = [
    'AverageStatisticsHook', 'ChannelsLastHook', 'DrawPredictionsHook',
    'EagerFirstStepHook', 'IntegerTrainingHook', 'LabelValuesHook',
    'NonFiniteError',
    'NonFiniteHook', 'ReliableCheckpointHook', 'SmallBatchHook',
    'SpikeMonitorHook', 'StopSignalHook'
]
