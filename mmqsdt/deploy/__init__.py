"""One trained model, three equal forms; and its packed weights."""

from .compare import FormReport, NeuronReport, compare_forms
from .describe import LayerDescription, describe
from .forms import FORMS, to_integer, to_spikes
from .from_config import build_model, load_batches, load_weights
from .packing import is_packed, load_packed, pack, read_packed

__all__ = [
    'FORMS', 'FormReport', 'LayerDescription', 'NeuronReport', 'build_model',
    'compare_forms', 'describe', 'is_packed', 'load_batches', 'load_packed',
    'load_weights', 'pack', 'read_packed', 'to_integer', 'to_spikes'
]
