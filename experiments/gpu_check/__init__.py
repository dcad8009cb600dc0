"""Whether all that holds on a CPU holds on a GPU, and how fast one is."""

from .checks import CHECKS, Setting, run_checks
from .table import measure, to_table

__all__ = ['CHECKS', 'Setting', 'measure', 'run_checks', 'to_table']
