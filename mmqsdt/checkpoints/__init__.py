"""Checkpoints: read safely, loaded with nothing missing, packed, resumed."""

from .convert import convert_reference_checkpoint
from .fit import load_counterpart, load_for_test, load_pretrained
from .packing import is_packed, load_packed, pack, read_packed, unpacked
from .read import load_state_dict, read_checkpoint
from .resume import find_checkpoint

__all__ = [
    'convert_reference_checkpoint', 'find_checkpoint', 'is_packed',
    'load_counterpart', 'load_for_test', 'load_packed', 'load_pretrained',
    'load_state_dict', 'pack', 'read_checkpoint', 'read_packed',
    'unpacked'
]
