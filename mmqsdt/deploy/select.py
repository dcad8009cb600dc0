"""A model in the form of a name."""

from torch import nn

from .fast import to_fast
from .forms import to_integer, to_spikes

FORMS = ('float', 'integer', 'fast', 'spikes')


def to_form(model: nn.Module,
            form: str,
            encoding: str = 'thermometer',
            inputs=None) -> nn.Module:
    """Return a model in the form of this name; 'float' is the model itself.

    Args:
        model (nn.Module): As in :func:`to_integer`.
        form (str): One of ``FORMS``.
        encoding (str): Of the spike form; see :func:`to_spikes`.
            Defaults to 'thermometer'.
        inputs (optional): As in :func:`to_integer`.

    Raises:
        ValueError: As in :func:`to_spikes`, and for other forms.
    """
    if form not in FORMS:
        raise ValueError(f'form must be one of {FORMS}, got {form!r}')
    if form == 'float':
        return model
    if form == 'fast':
        return to_fast(model, inputs)
    return to_integer(model, inputs) if form == 'integer' else to_spikes(
        model, encoding, inputs)
