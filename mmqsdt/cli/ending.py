"""One way to end for all tools: a line for what users can cause."""

import argparse
import sys
from collections.abc import Callable
from functools import wraps
from opcode import opmap
from pathlib import Path
from types import TracebackType

PACKAGE = Path(__file__).resolve().parents[1]
# What mmqsdt raises on purpose; anything else out of its own lines is a bug.
ON_PURPOSE = (ImportError, KeyError, OSError, RuntimeError, ValueError)
# What the machine or PyTorch, which has no lines in Python, raises in lines
# of ours: a file that is not there, shapes that a config made.
OF_OTHERS = (ImportError, MemoryError, OSError, RuntimeError)
BUILDER = 'mmengine/registry/build_functions.py'
ACCESS = 'mmengine/config/config.py'
MAX_CHARACTERS = 1200
HINT = '--debug shows where'
REPORT = ('This is a mistake in mmqsdt, not in what you gave it. Please '
          'report it with these lines and what tools/check_env.py prints.')


class ToolParser(argparse.ArgumentParser):
    """A parser of a command line, with what every tool and command takes.

    Args:
        kwargs: Those of ``argparse.ArgumentParser``.
    """

    def __init__(self, **kwargs) -> None:
        if '\n' in (kwargs.get('description') or ''):  # it has lines
            kwargs.setdefault('formatter_class',
                              argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)
        self.add_argument('--debug', action='store_true',
                          help='show the whole traceback of an error')

    def parse_known_args(self, args=None, namespace=None) -> tuple:
        """Parse; mmengine's --cfg-options raise what argparse does not know.

        Raises:
            ValueError: If an option is no key=value.
        """
        try:
            return super().parse_known_args(args, namespace)
        except ValueError as error:
            raise ValueError('--cfg-options are key=value, lists '
                             f'key="[a,b]": {error}') from None


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


def frames(error: BaseException) -> list[TracebackType]:
    """Where an error passed, the line that raised it last."""
    found, place = [], error.__traceback__
    while place is not None:
        found.append(place)
        place = place.tb_next
    return found


def file_of(place: TracebackType) -> Path:
    """Return the file of a frame."""
    return Path(place.tb_frame.f_code.co_filename)


def is_ours(place: TracebackType) -> bool:
    """Whether a frame is one of mmqsdt."""
    return PACKAGE in file_of(place).resolve().parents


def is_from_mmqsdt(error: BaseException) -> bool:
    """Whether mmqsdt raised an error on purpose: its message says it all."""
    return isinstance(error, ON_PURPOSE) and (
        _of_worker(error)[1] or any(
            is_ours(place) and _instruction(place) == 'RAISE_VARARGS'
            for place in frames(error)[-1:]))


def is_bug(error: BaseException) -> bool:
    """Whether an error is a mistake in the lines of mmqsdt.

    It is if its innermost frame is ours, but for messages, for what others
    raise there, and for arguments that a config gives a constructor of ours.
    """
    places = frames(error)
    return bool(places) and is_ours(places[-1]) and not (
        isinstance(error, OF_OTHERS) or is_from_mmqsdt(error)
        or _are_arguments(places))


def _of_worker(error: BaseException) -> tuple[str, bool]:
    """Find what a process of a data loader raised, told as text.

    Returns:
        tuple[str, bool]: Its message without the traceback before it, and
        whether mmqsdt raised it on purpose; '' if it is no such error.
    """
    try:
        lines = str(error).splitlines()
    except Exception:  # an exception of a stranger may fail at that, too
        return '', False
    if 'Original Traceback (most recent call last):' not in lines:
        return '', False
    place = max((i for i, line in enumerate(lines)
                 if line.startswith('  File ')), default=0)
    ours = str(PACKAGE) in lines[place] and any(
        line.lstrip().startswith('raise ')
        for line in lines[place + 1:place + 2])
    while place < len(lines) and lines[place].startswith(' '):
        place += 1
    text = '\n'.join(lines[place:])
    return text.partition(': ')[2] if ours else text, ours


def _instruction(place: TracebackType) -> str:
    """Say what Python was doing when an error passed a frame."""
    number = place.tb_frame.f_code.co_code[place.tb_lasti]
    return next(name for name, code in opmap.items() if code == number)


def _are_arguments(places: list[TracebackType]) -> bool:
    """Whether a constructor worked on what a config says."""
    names = [place.tb_frame.f_code.co_name for place in places]
    while names[-1].startswith('<'):  # '<listcomp>'
        names.pop()
    return names[-1] == '__init__' and any(
        file_of(place).as_posix().endswith(BUILDER) for place in places)


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
        text = (_of_worker(error)[0] or str(text)).strip()
    except Exception:  # an exception of a stranger may fail at that, too
        text = ''
    if len(text) > MAX_CHARACTERS:
        text = f'{text[:MAX_CHARACTERS]} ... ({len(text):,} characters)'
    if text and (isinstance(error, OSError) or is_from_mmqsdt(error)):
        return text
    places = frames(error)
    if isinstance(error, KeyError) and ' ' not in text:
        text = f'there is no {text!r}'
    while isinstance(error, (AttributeError, KeyError)) and len(places) > 1 \
            and file_of(places[-1]).as_posix().endswith(ACCESS):
        places.pop()  # whoever asked a config for what it has not
        text = f'the config: {text.removeprefix("the config: ")}'
    where = '' if not places else (
        f'  raised in {file_of(places[-1]).name}, line '
        f'{places[-1].tb_lineno}, {places[-1].tb_frame.f_code.co_name}; ')
    return f'{type(error).__name__}: {text or "no message"}\n{where}{HINT}'
