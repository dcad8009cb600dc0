"""What the tools share: the keys that a config may have."""

import argparse
from pathlib import Path

import pytest
from mmengine.config import Config

from mmqsdt import get_config_path
from mmqsdt.cli.common import (
    OUR_KEYS,
    check_keys,
    load_config,
    runner_keys,
    use_tta,
)
from mmqsdt.utils.configs import config_names


def arguments(path: Path, **options: object) -> argparse.Namespace:
    return argparse.Namespace(
        config=str(path), cfg_options=options, launcher='none', local_rank=0,
        work_dir=None)


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    (tmp_path / 'x.py').write_text('model = dict()\n')
    return tmp_path / 'x.py'


@pytest.mark.parametrize('key', [
    'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters', 'compile',
    'auto_scale_lr', 'activation_checkpointing', 'efficient_conv_bn_eval',
    'strategy', 'env_cfg', 'randomness', *OUR_KEYS])
def test_keys_of_the_frameworks_are_known(key, config):
    cfg = load_config(arguments(config, **{f'{key}.a': 1}))
    assert cfg[key] == dict(a=1)


def test_keys_that_nothing_reads_are_refused(config):
    assert not {'self', 'cfg', 'cudnn_benchmark'} & runner_keys()
    with pytest.raises(ValueError, match='did you mean model_wrapper_cfg'):
        load_config(arguments(config, **{'model_wraper_cfg.a': 1}))


def test_the_augmentation_of_a_test_goes_into_wrappers(config):
    cfg = load_config(arguments(config))
    cfg.tta_model, cfg.tta_pipeline = dict(type='T'), [dict(type='P')]
    cfg.test_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[
        dict(type='A'), dict(type='RepeatDataset', dataset=dict(type='B'))]))
    use_tta(cfg)
    a, b = cfg.test_dataloader.dataset.datasets
    assert a.pipeline == b.dataset.pipeline == [dict(type='P')]
    assert 'pipeline' not in b


@pytest.mark.parametrize('wrong, right', [
    ('modle', 'model'), ('train_dataloder', 'train_dataloader'),
    ('custom_hook', 'custom_hooks'), ('param_schedulers', 'param_scheduler')])
def test_keys_of_a_config_that_are_misspelt_are_refused(wrong, right, config):
    config.write_text(f'{wrong} = dict()\n')
    with pytest.raises(ValueError, match=f'{wrong}.* no {right}: misspelt'):
        load_config(arguments(config))
    config.write_text(f'{wrong} = dict()\n{right} = dict()\n')
    load_config(arguments(config))


@pytest.mark.parametrize('name', config_names())
def test_no_shipped_config_is_misspelt(name):
    check_keys(Config.fromfile(get_config_path(f'{name}.py')))


@pytest.mark.parametrize('name', ['x.py', 'base.py'])
def test_the_file_whose_syntax_is_wrong_is_named(name, config):
    config.write_text("_base_ = ['base.py']\n")
    (config.parent / 'base.py').write_text('a = 1\n')
    with open(config.parent / name, 'a') as file:
        file.write('model = dict(\n')
    with pytest.raises(ValueError, match=f'{name}, line 2: .*closed'):
        load_config(arguments(config))
