"""The sub-commands of tools/visualize.py, on small models of each task."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmqsdt import get_config_path
from mmqsdt.models.backbones.qsd_transformer import resolve_arch
from mmqsdt.utils.build import build_model

ROOT = Path(__file__).parents[2]
TASKS = ('cls/qsdt_digits.py', 'det/qsdt_maskrcnn_digits.py',
         'seg/qsdt_fpn_digits.py')


def visualize(monkeypatch, *args) -> None:
    tool = ROOT / 'tools/visualize.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), *map(str, args)])
    runpy.run_path(str(tool), run_name='__main__')


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two pictures of the same name.

    Figures are made and not rendered: that the plots' own tests do.
    """
    monkeypatch.chdir(tmp_path)

    def save(figure, stem) -> list[Path]:
        files = [Path(f'{stem}.{suffix}') for suffix in ('png', 'svg')]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return files

    for plot in ('attention_plot', 'curves_plot', 'spikes_plot',
                 'weights_plot'):
        monkeypatch.setattr(f'mmqsdt.measure.{plot}.save_picture', save)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Path('photographs').mkdir()
    Image.fromarray(noise).save('photographs/a.png')
    Image.fromarray(noise[..., 0]).save('photographs/a.tif')
    return tmp_path


def checkpoint(name: str, **backbone) -> tuple[Path, Path]:
    """A config of the zoo with a small backbone, and random weights."""
    from mmengine.config import Config
    cfg = Config.fromfile(get_config_path(name))
    pytest.importorskip(f'{cfg.default_scope}.models')
    arch = resolve_arch(cfg.model.backbone.arch)
    cfg.model.backbone.update(arch=dict(arch, depths=(1, 1)), **backbone)
    config, weights = Path('small.py').resolve(), Path('x.pth').resolve()
    cfg.dump(config)
    torch.save(build_model(cfg).state_dict(), weights)
    return config, weights


@pytest.mark.parametrize('name', TASKS)
def test_spikes_and_attention(name, folder, monkeypatch, capsys):
    model = checkpoint(name, time_steps=2)
    visualize(monkeypatch, 'spikes', *model, 'photographs/a.png', '--out',
              'out', '--device', 'cpu', '--encoding', 'bitwise', '--layers',
              'backbone.stages.3.*.q_neuron')
    visualize(monkeypatch, 'attention', *model, 'photographs/a.png', '--out',
              'out', '--device', 'cpu', '--query', 0.2, 0.9, '--query', 1, 0)
    names = {p.name for p in Path('out').iterdir()}
    assert names == {'a_spikes.json', *(
        f'a_{x}.{y}' for x in ('spikes', 'rates', 'attention')
        for y in ('png', 'svg'))}
    rows = json.loads(Path('out/a_spikes.json').read_text())['layers']
    assert all(0 <= row['firing_rate'] <= 1 for row in rows)
    by_layer = {row['layer']: row for row in rows}
    q = by_layer['backbone.stages.3.blocks.0.attn.q_neuron']
    assert q['shape'][:2] == [2, 96] and q['over_picture']
    task_layer = dict(
        cls='head.neuron', det='roi_head.bbox_head.shared_fcs.0.neuron',
        seg='decode_head.conv_seg.neuron')[name[:3]]
    assert by_layer[task_layer]['over_picture'] == name.startswith('seg')
    assert 'out/a_attention.png' in capsys.readouterr().out


def test_heads(folder, monkeypatch):
    model = checkpoint('cls/qsdt_digits.py')
    visualize(monkeypatch, 'attention', *model, 'photographs', '--out', 'out',
              '--device', 'cpu', '--heads', '--layers', 'stages.4*')
    assert {p.name for p in Path('out').iterdir()} == {
        f'{name}_stages.4.blocks.0.attn_heads.{suffix}'
        for name in ('a', 'a_2') for suffix in ('png', 'svg')}


def test_weights(folder, monkeypatch, capsys):
    config, weights = checkpoint('cls/qsdt_digits.py')
    visualize(monkeypatch, 'weights', config, weights, '--out', 'out')
    layers = json.loads(Path('out/weights.json').read_text())['layers']
    state = torch.load(weights, weights_only=True)
    quantised = [k for k in state if k.endswith('step_size')]
    assert [x['layer'] + '.step_size' for x in layers] == quantised
    for x in layers:
        assert sum(x['codes'].values()) == state[
            x['layer'] + '.weight'].numel()
        assert x['step_sizes'] == state[x['layer'] + '.step_size'].tolist()
    assert f'{len(layers)} quantized layers' in capsys.readouterr().out
    assert Path('out/weights.png').exists() and Path(
        'out/weights.svg').exists()


def test_curves(folder, monkeypatch):
    for name in ('runs/a', 'runs/b'):
        log = Path(name, '1/vis_data/scalars.json')
        log.parent.mkdir(parents=True)
        log.write_text(json.dumps(dict(loss=1., iter=10, step=10)) + '\n')
    visualize(monkeypatch, 'curves', 'runs/a', 'runs/b')
    assert Path('runs/a/curves.png').exists()
    assert Path('runs/a/curves.svg').exists()
    for more, message in (
            (['runs/a'], "2 different names for the trainings, got .'a', 'a'"),
            (['runs/b', '--keys', 'mAP'], "called 'mAP' was logged"),
            (['runs/b', '--smooth', 1], r'in \[0, 1\)'),
            (['runs/c'], 'no work dir at runs/c')):
        with pytest.raises(SystemExit, match=message):
            visualize(monkeypatch, 'curves', 'runs/a', *more)


def test_what_cannot_be_drawn_is_refused(folder, monkeypatch):
    ann = checkpoint('cls/qsdt_digits.py', weight_bits=None,
                     neuron=dict(type='ReLU'))
    photo = 'photographs/a.png'
    for args, message in (
            (['spikes', *ann, photo], 'ANN counterpart has none'),
            (['spikes', *ann, 'none.png'], 'no picture at none.png'),
            (['spikes', *ann, photo, '--max-side', 0], 'must be positive'),
            (['attention', *ann, photo, '--query', 3, 0], '0 to 1; got 3 0'),
            (['attention', *ann, photo, '--layers', 'x'],
             "no attention layer is called 'x'"),
            (['spikes', 'none.py', ann[1], photo], 'none.py')):
        with pytest.raises(SystemExit, match=message):
            visualize(monkeypatch, *args)
    assert not list(folder.glob('work_dirs/**/*.png'))
    # A counterpart has attention, though; and its head is quantised.
    visualize(monkeypatch, 'attention', *ann, photo)
    assert Path('work_dirs/small/a_attention.png').exists()
