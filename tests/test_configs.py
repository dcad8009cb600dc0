"""Every shipped config builds; what its parts say agrees with the model."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

import mmqsdt
from mmqsdt.launch import FRAMEWORKS

ROOT = Path(mmqsdt.get_config_path())
CONFIGS = sorted(
    str(p.relative_to(ROOT)) for p in ROOT.glob('*/*.py')
    if p.parent.name in ('cls', 'det', 'seg'))
DENSE = [c for c in CONFIGS if not c.startswith('cls')]


def build(name: str) -> tuple[Config, nn.Module]:
    cfg = Config.fromfile(ROOT / name)
    scope = cfg.default_scope
    pytest.importorskip(scope)
    init_default_scope(scope)
    models = import_module(f'{scope}.registry').MODELS
    return cfg, models.build(cfg.model)


@pytest.fixture(scope='module')
def built() -> dict:
    """Models by config, each built once."""
    cache = {}

    def get(name: str) -> tuple[Config, nn.Module]:
        if name not in cache:
            cache[name] = build(name)
        init_default_scope(cache[name][0].default_scope)
        return cache[name]

    return get


def test_there_are_configs_for_every_task():
    assert {c.split('/')[0] for c in CONFIGS} == {'cls', 'det', 'seg'}
    assert set(FRAMEWORKS) == {
        Config.fromfile(ROOT / c).default_scope for c in CONFIGS
    }


@pytest.mark.parametrize('name', CONFIGS)
def test_config_builds_and_predicts(name, built):
    cfg, model = built(name)
    model.eval()
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 64)
        feats = model.extract_feat(x)
    assert all(f.isfinite().all() for f in feats)


@pytest.mark.parametrize('name', CONFIGS)
def test_data_pipelines_and_metrics_build(name):
    cfg = Config.fromfile(ROOT / name)
    pytest.importorskip(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    import_module(f'{cfg.default_scope}.datasets')
    import_module(f'{cfg.default_scope}.evaluation')
    from mmengine.registry import METRICS, TRANSFORMS
    for part in ('train', 'val', 'test'):
        for step in cfg[f'{part}_dataloader'].dataset.pipeline:
            assert TRANSFORMS.build(step) is not None
    metric = {k: v for k, v in cfg.val_evaluator.items() if k != 'ann_file'}
    assert METRICS.build(metric) is not None


@pytest.mark.parametrize('name', CONFIGS)
def test_only_weights_decay(name, built):
    """Norms, biases, step sizes and layer scales take no weight decay."""
    from mmengine.optim import build_optim_wrapper
    cfg, model = built(name)
    import_module(f'{cfg.default_scope}.engine')  # its optimizers
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decays = {
        id(p): group['weight_decay']
        for group in wrapper.optimizer.param_groups for p in group['params']
    }
    names = dict(model.named_parameters())
    assert all((decays[id(p)] > 0) == (p.dim() > 1)
               for n, p in names.items() if 'bias' not in n), name
    for part in ('step_size', 'layer_scale', 'bias', 'norm'):
        touched = [p for n, p in names.items() if f'{part}' in n]
        assert all(decays[id(p)] == 0 for p in touched if p.dim() < 2)


def tap_strides(model: nn.Module, size: int = 256) -> list[int]:
    """Strides of the maps that the heads see, measured."""
    model.eval()
    with torch.no_grad():
        feats = model.extract_feat(torch.rand(1, 3, size, size))
    return [size // f.shape[-1] for f in feats]


@pytest.mark.parametrize('name', DENSE)
def test_strides_agree_from_taps_to_heads(name, built):
    cfg, model = built(name)
    strides = tap_strides(model)
    if cfg.default_scope == 'mmseg':
        assert list(model.decode_head.feature_strides) == strides
        return
    generator = model.rpn_head.prior_generator
    assert [s[0] for s in generator.strides] == strides
    for extractor in {model.roi_head.bbox_roi_extractor,
                      model.roi_head.mask_roi_extractor}:
        found = [round(1 / layer.spatial_scale)
                 for layer in extractor.roi_layers]
        assert found == strides[:len(found)]
