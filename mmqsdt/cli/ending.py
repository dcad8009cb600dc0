"""One way to end for all tools: a line for what users can cause."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import TracebackType

PACKAGE = Path(__file__).resolve().parents[1]
# What mmqsdt raises on purpose; anything else out of its own lines is a bug.
ON_PURPOSE = (ImportError, KeyError, OSError, ValueError)
MAX_CHARACTERS = 1200
HINT = '--debug shows where'
REPORT = ('This is a mistake in mmqsdt, not in what you gave it. Please '
          'report it with these lines and what tools/check_env.py prints.')


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Make the main function of a tool end well.

    What users can cause, the frameworks' own exceptions while configs, data,
    models and checkpoints are built included, ends in one line with the cause
    and exit status 1. A mistake in mmqsdt keeps its traceback and says where
    to report it, and so does an error that :func:`keep_traceback` has marked.
    ``--debug`` on the command line shows every traceback.

    Args:
        main (Callable): Reads ``sys.argv``.
    """

    @wraps(main)
    def run() -> None:
        debug = '--debug' in sys.argv
        sys.argv[:] = [x for x in sys.argv if x != '--debug']
        try:
            main()
        except Exception as error:
            if debug or getattr(error, 'keeps_traceback', False):
                raise
            if is_bug(error):
                error.add_note(REPORT)
                raise
            raise SystemExit(one_line(error)) from None

    return run


def keep_traceback(error: Exception) -> Exception:
    """Mark an error whose traceback helps more than a line would."""
    error.keeps_traceback = True
    return error


def last_frame(place: TracebackType | None) -> TracebackType | None:
    """Where an error was raised."""
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place


def is_from_mmqsdt(error: BaseException) -> bool:
    """Whether an error was raised in mmqsdt, whose messages say it all."""
    place = last_frame(error.__traceback__)
    return place is not None and PACKAGE in Path(
        place.tb_frame.f_code.co_filename).resolve().parents


def is_bug(error: BaseException) -> bool:
    """Whether an error is a mistake in the lines of mmqsdt.

    A RuntimeError there is PyTorch's, which has no lines in Python: of shapes
    that a config made.
    """
    return is_from_mmqsdt(error) and not isinstance(
        error, (*ON_PURPOSE, RuntimeError)) and type(error) is not TypeError


def one_line(error: BaseException) -> str:
    """Say what went wrong, in few lines whatever the error holds.

    Args:
        error (BaseException): Any.

    Returns:
        str: The message, as it is if mmqsdt wrote it; else with the kind of
        the error, the line that raised one without words, and how to see
        more.
    """
    text = error.args[0] if isinstance(error, KeyError) and error.args \
        else error
    try:
        text = str(text).strip()
    except Exception:  # an exception of a stranger may fail at that, too
        text = ''
    if len(text) > MAX_CHARACTERS:
        text = f'{text[:MAX_CHARACTERS]} ... ({len(text):,} characters)'
    if isinstance(error, OSError) or (text and is_from_mmqsdt(error)):
        return text
    if isinstance(error, KeyError) and ' ' not in text:
        text = f'there is no {text!r}'
    place = last_frame(error.__traceback__)
    where = '' if place is None else (
        f'  raised in {Path(place.tb_frame.f_code.co_filename).name}, line '
        f'{place.tb_lineno}, {place.tb_frame.f_code.co_name}; ')
    return f'{type(error).__name__}: {text or "no message"}\n{where}{HINT}'
