"""MMPretrain, MMDetection and MMSegmentation, by the scope of a config."""

from importlib import import_module

from mmengine.config import Config

# scope of a config -> (pip extra, what it is for)
FRAMEWORKS = dict(
    mmpretrain=('cls', 'classification'),
    mmdet=('det', 'detection'),
    mmseg=('seg', 'segmentation'))


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
        import_module(f'{scope}.models')
    except ImportError as error:
        raise ImportError(
            f'This config is for {task} with {scope}, which cannot be '
            f'imported ({error}).\n  install it: pip install '
            f'"mmqsdt[{extra}]"  (in a checkout: make install)') from error
