"""MMPretrain, MMDetection and MMSegmentation, by the scope of a config."""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_installed

# scope of a config -> (pip extra, what it is for)
FRAMEWORKS = dict(
    mmpretrain=('cls', 'classification'),
    mmdet=('det', 'detection'),
    mmseg=('seg', 'segmentation'))


def know_forks() -> None:
    """Let ``_base_ = 'mmseg::...'`` find a fork of another package name.

    MMEngine asks for the distribution mmsegmentation; the fork that is
    installed as onedl-mmsegmentation has only the import name in common.
    """
    for name, package in MODULE2PACKAGE.items():
        if name in FRAMEWORKS and not is_installed(package):
            MODULE2PACKAGE[name] = name


@contextmanager
def without_noise() -> Iterator[None]:
    """Hide lines that the frameworks print while they are imported.

    Only lines on which users cannot act: that of an optional package for
    data sets.
    """
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if 'Could not import OneDL' not in line:
                print(line)


def check_framework(cfg: Config) -> None:
    """Import the framework a config is written for.

    Raises:
        ImportError: If it cannot be imported; names what to install.
    """
    scope = cfg.get('default_scope', 'mmengine')
    if scope not in FRAMEWORKS:
        return
    extra, task = FRAMEWORKS[scope]
    try:
        with without_noise():
            for part in ('models', 'datasets'):
                import_module(f'{scope}.{part}')
    except ImportError as error:
        raise ImportError(
            f'This config is for {task} with {scope}, which cannot be '
            f'imported ({error}).\n  install it: pip install '
            f'"mmqsdt[{extra}]"  (in a checkout: make install)') from error
