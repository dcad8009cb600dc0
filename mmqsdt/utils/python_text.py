"""Write values as the Python text of a config."""

from yapf.yapflib.yapf_api import FormatCode


class Code(str):
    """Text that goes into the config as it is."""


def render(value: object) -> str:
    """Write a value as Python text, dictionaries as ``dict(...)``."""
    if isinstance(value, dict):
        if not all(isinstance(k, str) and k.isidentifier() for k in value):
            return '{' + ', '.join(
                f'{k!r}: {render(v)}' for k, v in value.items()) + '}'
        return 'dict(' + ', '.join(
            f'{k}={render(v)}' for k, v in value.items()) + ')'
    if isinstance(value, (list, tuple)):
        inside = ', '.join(map(render, value))
        if isinstance(value, tuple):
            return f'({inside}{", " if len(value) == 1 else ""})'
        return f'[{inside}]'
    return str(value) if isinstance(value, Code) else repr(value)


def format_code(text: str) -> str:
    """Break the text into lines of at most 79 characters."""
    return FormatCode(text, style_config=dict(
        based_on_style='pep8', column_limit=79))[0]
