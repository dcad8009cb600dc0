"""A published folder has the weights, bit by bit, and nothing of the run."""

import hashlib
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from safetensors import safe_open
from safetensors.torch import load_file
from test_configs import load

from mmqsdt.checkpoints.fit import load_for_test
from mmqsdt.checkpoints.packing import read_packed
from mmqsdt.cli.publish import (
    cleaned,
    describe_scores,
    describe_training,
    publish,
)
from mmqsdt.utils.build import build_model

HOME = Path(__file__).parents[2]
CONFIGS = ['cls/qsdt_digits.py', 'det/qsdt_maskrcnn-stock-heads_digits.py',
           'seg/qsdt_fpn-stock-head_digits.py']


@pytest.fixture
def trained(tmp_path):
    """Config, model and checkpoint as a training run leaves them."""

    def make(name: str):
        cfg = load(name)
        cfg.work_dir = '/home/somebody/work_dirs/x'
        cfg.load_from = '/home/somebody/start.pth'
        model = build_model(cfg)
        optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        path = tmp_path / 'epoch_1.pth'
        torch.save(dict(meta=dict(epoch=1), state_dict=model.state_dict(),
                        optimizer=optimizer.state_dict()), path)
        return cfg, model, str(path)

    return make


@pytest.mark.parametrize('name', CONFIGS)
def test_weights_come_back_bit_by_bit(name, trained, tmp_path):
    cfg, model, path = trained(name)
    done = publish(cfg, path, str(tmp_path / 'hub'), 'digits', 'mit')
    stored, own = load_file(done.weights), model.state_dict()
    assert stored.keys() == own.keys()
    assert all(torch.equal(stored[k], own[k]) for k in own)
    assert done.after < done.before / 2.5  # AdamW keeps two more of each
    # From config.py and the file alone, as whoever downloads them does.
    again = build_model(Config.fromfile(done.config))
    load_for_test(again, str(done.weights))
    assert all(torch.equal(v, own[k]) for k, v in again.state_dict().items())


def test_the_hash_is_that_of_the_file(trained, tmp_path):
    cfg, _, path = trained(CONFIGS[0])
    done = publish(cfg, path, str(tmp_path / 'hub'), 'digits', 'mit')
    digest = hashlib.sha256(done.weights.read_bytes()).hexdigest()
    assert done.sha256 == digest
    assert done.weights.name == f'digits-{digest[:8]}.safetensors'
    assert digest in done.card.read_text()
    assert sorted(p.name for p in (tmp_path / 'hub').iterdir()) == [
        'README.md', 'config.py', done.weights.name]


@pytest.mark.parametrize('name, tag, extra', [
    (CONFIGS[0], 'image-classification', 'cls'),
    (CONFIGS[1], 'object-detection', 'det'),
    (CONFIGS[2], 'image-segmentation', 'seg')])
def test_the_card_says_what_it_is(name, tag, extra, trained, tmp_path):
    cfg, model, path = trained(name)
    done = publish(cfg, path, str(tmp_path / 'hub'), 'digits', 'cc-by-4.0')
    card = done.card.read_text()
    _, front, body = card.split('---\n', 2)
    front = yaml.safe_load(front)
    assert front['license'] == 'cc-by-4.0'
    assert front['pipeline_tag'] == tag
    assert cfg.default_scope in front['tags']
    assert f'mmqsdt[{extra}]' in body
    assert f'{sum(p.numel() for p in model.parameters()):,}' in body
    assert '4 bits' in body and '1 x 4' in body
    assert 'None were given' in body and '$' not in body
    assert set(front['tags']) == {'spiking-neural-network', 'quantization',
                                  cfg.default_scope}


def test_a_counterpart_is_no_spiking_network(trained, tmp_path):
    cfg, _, path = trained('cls/qsdt-ann_digits.py')
    card = publish(cfg, path, str(tmp_path / 'hub'), 'x', 'mit').card
    front = yaml.safe_load(card.read_text().split('---\n')[1])
    assert front['tags'] == ['mmpretrain']
    assert 'An ANN for classification' in card.read_text()


@pytest.mark.parametrize('meta, said', [
    (dict(epoch=2, iter=46), '2 epochs of the 35 in its config;'),
    (dict(epoch=35, iter=805), '35 epochs;'),
    ({}, '35 epochs;'),  # plain weights: what its config plans
])
def test_the_length_of_training_is_that_of_the_checkpoint(meta, said):
    assert describe_training(load(CONFIGS[0]), meta).startswith(said)


def test_no_path_of_the_run_is_published(trained, tmp_path):
    cfg, _, path = trained(CONFIGS[0])
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint='/home/somebody/imagenet.pth')
    done = publish(cfg, path, str(tmp_path / 'hub'), 'digits', 'mit')
    assert cfg.work_dir  # the caller's is as it was
    for file in (tmp_path / 'hub').iterdir():
        assert b'/home/somebody' not in file.read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()
    assert 'init_cfg' not in Config.fromfile(done.config).model.backbone
    assert 'init_cfg' in cleaned(load(CONFIGS[0])).model.backbone or \
        'init_cfg' not in load(CONFIGS[0]).model.backbone


def test_packed(trained, tmp_path):
    cfg, model, path = trained(CONFIGS[0])
    done = publish(cfg, path, str(tmp_path / 'hub'), 'digits', 'mit',
                   packed=True)
    _, metadata = read_packed(str(done.weights))
    assert metadata['layers'] and '/home/somebody' not in metadata['config']
    again = build_model(cfg)
    load_for_test(again, str(done.weights))
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images)[-1], model(images)[-1])


def test_scores_are_those_of_the_file(trained, tmp_path):
    scores = tmp_path / 'scores.json'
    scores.write_text(json.dumps({'accuracy/top1': 12.345, 'data_time': 9.}))
    cfg, _, path = trained(CONFIGS[0])
    done = publish(cfg, path, str(tmp_path / 'hub'), 'digits', 'mit',
                   str(scores))
    card = done.card.read_text()
    assert '| accuracy/top1 | 12.35 |' in card or \
        '| accuracy/top1 | 12.34 |' in card
    assert 'data_time' not in card


@pytest.mark.parametrize('content', ['{', '[1]', '{}', '{"a": "b"}'])
def test_what_is_no_scores_is_refused(content, tmp_path):
    (tmp_path / 'x.json').write_text(content)
    with pytest.raises(ValueError, match='scores'):
        describe_scores(str(tmp_path / 'x.json'))


def test_diverged_weights_are_refused(trained, tmp_path):
    cfg, model, path = trained(CONFIGS[0])
    content = torch.load(path, weights_only=True)
    name = next(k for k in content['state_dict'] if k.endswith('norm.weight'))
    content['state_dict'][name][0] = torch.nan
    torch.save(content, path)
    with pytest.raises(ValueError, match=f'{name} are not finite'):
        publish(cfg, path, str(tmp_path / 'hub'), 'digits', 'mit')
    assert not (tmp_path / 'hub').exists()


@pytest.mark.parametrize('name', ['', 'a/b', '.hidden', 'a b'])
def test_names_that_are_no_file_names_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match='letters, digits'):
        publish(Config(), 'x.pth', str(tmp_path), name, 'mit')


def run_tool(monkeypatch, folder: Path, *args) -> object:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['publish.py', *map(str, args)])
    try:
        runpy.run_path(str(HOME / 'tools/publish.py'), run_name='__main__')
    except SystemExit as stop:
        return stop.code
    return 0


def test_a_card_with_words_of_somebody_is_kept(trained, tmp_path,
                                               monkeypatch, capsys):
    _, _, path = trained(CONFIGS[0])
    args = ('qsdt_digits', path, '--out', 'hub')
    assert run_tool(monkeypatch, tmp_path, *args) == 0
    assert 'sha256' in capsys.readouterr().out
    (tmp_path / 'hub/README.md').write_text('mine')
    assert '--force' in run_tool(monkeypatch, tmp_path, *args)
    assert (tmp_path / 'hub/README.md').read_text() == 'mine'
    assert run_tool(monkeypatch, tmp_path, *args, '--force') == 0
    assert '# qsdt_digits' in (tmp_path / 'hub/README.md').read_text()
    with safe_open(next((tmp_path / 'hub').glob('*.safetensors')),
                   'pt') as file:
        assert file.metadata()['format'] == 'pt'
