from pathlib import Path

import pytest
from mmengine.config import Config
from shared import ARCH

ROOT = Path(__file__).parents[3]
CONFIGS = dict(
    cls='cls/qsdt_digits', det='det/qsdt_maskrcnn_digits',
    seg='seg/qsdt_fpn_digits')
PACKAGES = dict(cls='mmpretrain', det='mmdet', seg='mmseg')


@pytest.fixture
def load():
    """The digits config of a task."""

    def load_config(task):
        pytest.importorskip(f'{PACKAGES[task]}.models')
        return Config.fromfile(ROOT / f'configs/{CONFIGS[task]}.py')

    return load_config


@pytest.fixture
def small(load):
    """A classifier of a few channels."""
    cfg = load('cls')
    cfg.model.backbone.arch = ARCH
    cfg.model.head.in_channels = 16
    return cfg
