"""How fast a model is, and how much memory it takes, against its counterpart.

Everything runs in one process in turn, so that what else the machine does
falls upon all alike; memory is that of fresh processes.
"""

from .inference import measure_inference, measure_memory
from .loading import check_loading, measure_loading
from .profile import profile_inference, profile_training
from .report import Benchmark, Timing, fitted_exponent
from .runners import CLOCKS, TITLES, Models, alternate
from .tables import plot_benchmark, print_benchmark, to_markdown
from .training import TRAINING_TITLES, measure_training

__all__ = [
    'CLOCKS', 'TITLES', 'TRAINING_TITLES', 'Benchmark', 'Models', 'Timing',
    'alternate', 'check_loading', 'fitted_exponent',
    'measure_inference', 'measure_loading', 'measure_memory',
    'measure_training', 'plot_benchmark', 'print_benchmark',
    'profile_inference', 'profile_training', 'to_markdown'
]
