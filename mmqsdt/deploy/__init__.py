"""One trained model, three equal forms."""

# Found here by scripts; they live in those rooms.
from ..checkpoints import (  # noqa: F401
    is_packed,
    load_packed,
    pack,
    read_packed,
)
from ..checkpoints import load_for_test as load_weights  # noqa: F401
from ..utils import build_model, load_batches  # noqa: F401
from .compare import FormReport, NeuronReport, compare_forms
from .compiled import to_compiled
from .describe import LayerDescription, describe, explain
from .fast import to_fast
from .forms import to_integer, to_spikes
from .program import trace
from .select import FORMS, to_form
from .spikes import ENCODINGS

__all__ = [
    'ENCODINGS', 'FORMS', 'FormReport', 'LayerDescription', 'NeuronReport',
    'compare_forms', 'describe', 'explain', 'to_compiled', 'to_fast',
    'to_form', 'to_integer', 'to_spikes', 'trace'
]
