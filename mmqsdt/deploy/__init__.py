"""One trained model, three equal forms; and its packed weights."""

from ..checkpoint import load_for_test as load_weights
from ..launch import build_model, load_batches
from .compare import FormReport, NeuronReport, compare_forms
from .describe import LayerDescription, describe, explain
from .fast import to_fast
from .forms import FORMS, to_form, to_integer, to_spikes
from .packing import is_packed, load_packed, pack, read_packed
from .program import trace
from .spikes import ENCODINGS

__all__ = [
    'ENCODINGS', 'FORMS', 'FormReport', 'LayerDescription', 'NeuronReport',
    'build_model', 'compare_forms', 'describe', 'explain', 'is_packed',
    'load_batches', 'load_packed', 'load_weights', 'pack', 'read_packed',
    'to_fast', 'to_form', 'to_integer', 'to_spikes', 'trace'
]
