"""Show on the screen only what a person reads; the log file has all.

The screen shows progress, losses, scores, messages of mmqsdt, and warnings
that one can act upon. The config, the environment, the hooks, and the
initialization and learning rate of each weight, a thousand lines before the
first iteration, are only in the log file of the work dir. ``--verbose`` shows
them on the screen, too.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.runner import Runner

PACKAGE = f'{Path(__file__).resolve().parents[1]}{os.sep}'
# Messages of other libraries on level INFO that are shown.
READ = re.compile(r'(Epoch|Iter)\((train|val|test)\)|Saving checkpoint|'
                  r'The best checkpoint|[Rr]esumed|Load checkpoint from')
# Warnings of other libraries that a user can do nothing about.
NOISE = re.compile(
    r'is the alias of|"FileClient" will be deprecated|The prefix is not set '
    r'in metric class|save_param_scheduler|not set in `?metainfo|'
    r'Failed to search registry with scope|The current default scope|'
    r'does not have a `?dataset_meta')
LOGGING = ('/logging/', '/mmengine/logging/')
CHATTY = ('pycocotools.coco', 'pycocotools.cocoeval')


class Screen(logging.Filter):
    """Let only records for the screen pass; a warning of others once."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown."""
        text = record.getMessage()
        if record.levelno >= logging.ERROR or is_ours(sys._getframe()):
            return True
        if record.levelno < logging.WARNING:
            return bool(READ.match(text))
        shown = not NOISE.search(text) and text not in self.said
        self.said.add(text)
        return shown


def is_ours(frame: FrameType | None) -> bool:
    """Tell whether mmqsdt called the logger."""
    while frame is not None:
        path = frame.f_code.co_filename
        if frame.f_code is not Screen.filter.__code__ and not any(
                each in path for each in LOGGING):
            return path.startswith(PACKAGE)
        frame = frame.f_back
    return False


class QuietRunner(Runner):
    """A runner that logs little to the screen; see this module."""

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """Build the logger of mmengine, with a filter for the screen."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(Screen())
            elif is_main_process():
                logger.info(f'the whole log: {handler.baseFilename}')
        return logger


def build_runner(cfg: Config, verbose: bool = False) -> Runner:
    """Build the runner of a config.

    Args:
        cfg (Config): For training or testing.
        verbose (bool): Show all that is logged.
            Defaults to False.
    """
    return (Runner if verbose else QuietRunner).from_cfg(cfg)


@contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Send warnings and prints of libraries to the log file.

    Args:
        verbose (bool): Change nothing. Defaults to False.
    """
    if verbose:
        yield
        return
    show = warnings.showwarning
    chatty = {module: vars(module).get('print') for module in map(
        _import, CHATTY) if module is not None}
    # Handlers in use until a runner has a logger of its own.
    handlers = [h for h in MMLogger.get_current_instance().handlers
                if not isinstance(h, logging.FileHandler)]
    screen = Screen()

    def show_ours(message, category, filename, lineno, file=None, line=None):
        if filename.startswith(PACKAGE) or 'mmqsdt' in str(message):
            show(message, category, filename, lineno, file, line)
        else:
            note(f'{category.__name__}: {message} ({filename}:{lineno})')

    warnings.showwarning = show_ours
    for module in chatty:
        module.print = lambda *words, **_: note(' '.join(map(str, words)))
    for handler in handlers:
        handler.addFilter(screen)
    try:
        yield
    finally:
        warnings.showwarning = show
        for handler in handlers:
            handler.removeFilter(screen)
        for module, before in chatty.items():
            if before is None:
                del module.print
            else:  # one within another
                module.print = before


def note(text: str) -> None:
    """Write a line to the log file only, if there is one yet."""
    logger = MMLogger.get_current_instance()
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, text,
                               (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _import(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None
