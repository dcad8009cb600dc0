"""Every shipped config builds at its full size, and its parts agree.

Models are built on the meta device, where they have shapes but no values, so
that the largest costs as little as the smallest.
"""

from copy import deepcopy
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

import mmqsdt
from mmqsdt.utils.frameworks import FRAMEWORKS

ROOT = Path(mmqsdt.get_config_path())
CONFIGS = sorted(
    str(p.relative_to(ROOT)) for p in ROOT.glob('*/*.py')
    if p.parent.name in ('cls', 'det', 'seg'))


@cache
def _read(name: str) -> Config:
    return Config.fromfile(ROOT / name)


def load(name: str) -> Config:
    """A config, once its framework is imported."""
    cfg = deepcopy(_read(name))
    pytest.importorskip(cfg.default_scope)
    for part in ('datasets', 'engine', 'evaluation', 'models'):
        import_module(f'{cfg.default_scope}.{part}')
    return cfg


def build(cfg: Config, device: str = 'meta') -> nn.Module:
    """The model of a config, in eval mode."""
    models = import_module(f'{cfg.default_scope}.registry').MODELS
    with DefaultScope.overwrite_default_scope(cfg.default_scope), \
            torch.device(device):
        return models.build(cfg.model).eval()


@cache
def full_size(name: str) -> nn.Module:
    """The model of a config on the meta device, built once."""
    return build(load(name))


def test_there_are_configs_for_every_task():
    assert {c.split('/')[0] for c in CONFIGS} == {'cls', 'det', 'seg'}
    assert set(FRAMEWORKS) == {
        _read(c).default_scope for c in CONFIGS
    }


@pytest.mark.parametrize('name', CONFIGS)
def test_data_pipelines_and_metrics_build(name):
    from mmengine.registry import METRICS, TRANSFORMS
    cfg = load(name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for part in ('train', 'val', 'test'):
            for step in cfg[f'{part}_dataloader'].dataset.pipeline:
                assert TRANSFORMS.build(step) is not None
        metric = {k: v for k, v in cfg.val_evaluator.items()
                  if k != 'ann_file'}
        assert METRICS.build(metric) is not None


@pytest.mark.parametrize('name', CONFIGS)
def test_heads_know_the_classes_of_the_data(name):
    cfg, model = load(name), full_size(name)
    datasets = import_module(f'{cfg.default_scope}.registry').DATASETS
    found = {m.num_classes for n, m in model.named_modules()
             if n != 'rpn_head'
             and getattr(m, 'num_classes', None) and list(m.parameters())}
    if cfg.default_scope == 'mmpretrain':
        found.add(cfg.model.data_preprocessor.num_classes)
    for part in ('train', 'val', 'test'):
        dataset = cfg[f'{part}_dataloader'].dataset
        classes = dataset.get('metainfo', {}).get('classes')
        if classes is None:
            classes = datasets.get(dataset.type).METAINFO.get('classes')
        # Data without names have as many classes as all heads agree on.
        assert len(found) == 1
        assert classes is None or found == {len(classes)}


@pytest.mark.parametrize('name', CONFIGS)
def test_test_and_validation_data_are_the_same(name):
    """So a score of tools/test.py is that of the last validation."""
    cfg = load(name)
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.test_evaluator == cfg.val_evaluator
