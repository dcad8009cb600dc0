"""Checkpoints of fixed thresholds under configs that learn them."""

import pytest
import torch
from mmengine.config import Config

from mmqsdt import get_config_path
from mmqsdt.checkpoints.fit import load_for_test
from mmqsdt.checkpoints.resume import check_fits, guard_loading
from mmqsdt.utils.build import build_model
from mmqsdt.utils.frameworks import check_framework

TASKS = ['cls/qsdt{}_digits', 'det/qsdt{}_retinanet_digits',
         'seg/qsdt{}_fpn_digits']


@pytest.mark.parametrize('name', TASKS)
def test_the_config_of_an_older_checkpoint_is_named(name, tmp_path):
    """The digits' configs had the published neuron once."""
    def config(kind: str) -> Config:
        return Config.fromfile(get_config_path(f'{name.format(kind)}.py'))

    pytest.importorskip(f'{config("").default_scope}.models')
    check_framework(config(''))
    path = tmp_path / 'x.pth'
    torch.save(dict(state_dict=build_model(config('-published')).state_dict(),
                    meta={}), path)
    model, hint = build_model(config('')), name.format('-published')
    with pytest.raises(ValueError, match=f'threshold is fixed.*{hint}'):
        load_for_test(model, path)
    guard_loading()
    cfg = config('')
    cfg.load_from, cfg.resume = str(path), True
    with pytest.raises(ValueError, match=f'threshold is fixed.*{hint}'):
        check_fits(model, cfg)
    ann = {key: value for key, value in model.state_dict().items()
           if not key.endswith(('log_threshold', 'step_size'))}
    torch.save(dict(state_dict=ann), path)
    with pytest.raises(ValueError, match='saved as an ANN.*calibrate'):
        load_for_test(model, path)
    # Where more is missing it is another config.
    torch.save(dict(state_dict={
        key: value for key, value in model.state_dict().items()
        if not key.endswith(('log_threshold', 'weight'))}), path)
    with pytest.raises(ValueError, match='saved from another config'):
        load_for_test(model, path)


def test_weights_of_another_arch_are_no_start(tmp_path):
    """Thresholds of one value would fit; a head of other classes may not."""
    cfg = Config.fromfile(get_config_path('cls/qsdt_digits.py'))
    pytest.importorskip('mmpretrain.models')
    check_framework(cfg)
    guard_loading()
    model = build_model(cfg)
    cfg.load_from, cfg.resume = str(tmp_path / 'x.pth'), False
    state = model.state_dict()
    torch.save(dict(state_dict={
        key: torch.cat([value] * 2) if key.startswith('head.') else value
        for key, value in state.items()}), cfg.load_from)
    check_fits(model, cfg)
    torch.save(dict(state_dict={
        key: torch.cat([value] * 2) if value.numel() > 1 else value
        for key, value in state.items()}), cfg.load_from)
    with pytest.raises(ValueError, match='is of another arch: of .* First'):
        check_fits(model, cfg)
