"""tools/pack.py, energy.py, paper.py, report.py, as a user runs them."""

import csv
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from shared import ARCH, run_tool
from test_measure.test_page import check_page
from torch import nn

import mmqsdt  # noqa: F401
from mmqsdt.checkpoints.packing import quantized_layers
from mmqsdt.measure.costs import EnergyCosts

ROOT = Path(__file__).parents[2]
CONFIGS = {
    'mmpretrain': ROOT / 'configs/cls/qsdt_digits.py',
    'mmdet': ROOT / 'configs/det/qsdt-published_maskrcnn_digits.py',
    'mmseg': ROOT / 'configs/seg/qsdt-published_fpn_digits.py'
}
# Small enough for seconds; the rest is as in the configs.
SMALL = {
    'mmpretrain': dict(head=dict(in_channels=16)),
    'mmdet': dict(neck=dict(in_channels=[8, 16, 16, 16]),
                  test_cfg=dict(rpn=dict(max_per_img=10))),
    'mmseg': dict(neck=dict(in_channels=[4, 8, 16, 16]))
}
PARTS = {
    'mmpretrain': {'backbone', 'head'},
    'mmdet': {'backbone', 'neck', 'rpn_head', 'roi_head'},
    'mmseg': {'backbone', 'neck', 'decode_head'}
}
LOADER = dict(num_workers=0, persistent_workers=False)


@pytest.fixture(scope='module')
def workplace(copy_digits, tmp_path_factory) -> Path:
    """A folder with data/digits in it: four scenes and two."""
    return copy_digits(tmp_path_factory.mktemp('workplace'))


@pytest.fixture
def small(workplace) -> Callable[[str], tuple[Path, Path]]:
    """``small(framework)``: a config of a small model, and its weights."""

    def small(framework: str) -> tuple[Path, Path]:
        pytest.importorskip(f'{framework}.models')
        config = workplace / f'{framework}.py'
        checkpoint = workplace / f'{framework}.pth'
        if not config.exists():
            cfg = Config.fromfile(CONFIGS[framework])
            cfg.model.backbone.arch = ARCH
            cfg.merge_from_dict(dict(model=SMALL[framework]))
            for part in ('train', 'val', 'test'):
                cfg[f'{part}_dataloader'].update(LOADER)
            cfg.dump(config)
            init_default_scope(framework)
            model = MODELS.build(cfg.model)
            for name, parameter in model.named_parameters():
                if 'layer_scale' in name:
                    nn.init.uniform_(parameter, .1, 1.)
            torch.save(dict(state_dict=model.state_dict()), checkpoint)
        return config, checkpoint

    return small


def scores(text: str) -> list[str]:
    return [line for line in text.splitlines()
            if re.fullmatch(r'[\w/]+: -?([\d.]+|nan)', line)]


@pytest.mark.parametrize('framework', CONFIGS)
def test_pack_test_and_unpack(framework, small, tmp_path, monkeypatch,
                              capsys):
    config, checkpoint = small(framework)
    packed, unpacked = tmp_path / 'x.safetensors', tmp_path / 'x.pth'
    run_tool(monkeypatch, config.parent, 'pack.py', config, checkpoint,
             packed)
    assert re.search(r'codes [\d,]+ \+ rest [\d,]+ = [\d,]+ bytes',
                     capsys.readouterr().out)
    run_tool(monkeypatch, config.parent, 'pack.py', config, packed, unpacked,
             '--unpack')
    source = torch.load(checkpoint, weights_only=True)['state_dict']
    back = torch.load(unpacked, weights_only=True)['state_dict']
    model = MODELS.build(Config.fromfile(config).model)
    model.load_state_dict(source)
    codes = {name: layer.integer_weight()
             for name, layer in quantized_layers(model).items()}
    model.load_state_dict(back)
    for name, layer in quantized_layers(model).items():
        assert torch.equal(layer.integer_weight(), codes[name])
    for name, value in source.items():
        if name.removesuffix('.weight') not in codes:
            assert torch.equal(back[name], value)

    # The test tool reads the packed file, with the same scores.
    capsys.readouterr()
    results = []
    for weights in (checkpoint, packed):
        run_tool(monkeypatch, config.parent, 'test.py', config, weights,
                 '--work-dir', tmp_path / 'tested')
        results.append(scores(capsys.readouterr().out))
    assert results[0] and results[0] == results[1]


@pytest.mark.parametrize('framework', CONFIGS)
def test_every_form_of_packed_weights_predicts_alike(framework, small,
                                                     tmp_path, monkeypatch,
                                                     capsys):
    """In float64, where no rounding tells the forms apart."""
    config, checkpoint = small(framework)
    packed = tmp_path / 'x.safetensors'
    run_tool(monkeypatch, config.parent, 'pack.py', config, checkpoint,
             packed)
    found = []
    for weights, options in (
        (checkpoint, ['float']), (packed, ['float']), (packed, ['integer']),
        (packed, ['spikes']), (packed, ['spikes', '--encoding', 'bitwise'])):
        capsys.readouterr()
        run_tool(monkeypatch, config.parent, 'test.py', config, weights,
                 '--work-dir', tmp_path / 'tested', '--out',
                 tmp_path / 'out.pkl', '--double', '--inference', *options)
        with open(tmp_path / 'out.pkl', 'rb') as file:
            predictions = pickle.load(file)
        found.append((scores(capsys.readouterr().out), predictions))
    first, *others = found
    assert first[0] and len(tensors_in(first[1])) > 0
    for other in others:
        assert other[0] == first[0]
        for mine, theirs in zip(
                tensors_in(first[1]), tensors_in(other[1]), strict=True):
            # Float64 sums in another order; pixels up to some hundred.
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def tensors_in(content: object) -> list[torch.Tensor]:
    """All tensors of a prediction, numbers as tensors."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list | tuple):
        return [x for each in content for x in tensors_in(each)]
    return [content] if isinstance(content, torch.Tensor) else []


@pytest.mark.parametrize('framework', CONFIGS)
def test_energy(framework, small, tmp_path, monkeypatch, capsys):
    config, checkpoint = small(framework)
    run_tool(monkeypatch, config.parent, 'energy.py', config, checkpoint,
             '--data', 'val', '--images', '1', '--work-dir', tmp_path)
    text = capsys.readouterr().out
    assert 'to quote' in text and 'Layers' not in text
    assert ('--regions 0 takes those found' in text) == (framework == 'mmdet')
    content = json.loads((tmp_path / 'energy.json').read_text())
    assert content['images'] == 1
    totals = content['totals_millijoule']
    assert set(totals) == {*PARTS[framework], 'total'}
    assert all(f'{energy:.4g}' in text for energy in totals['total'].values())
    assert {layer['name'].split('.')[0]
            for layer in content['layers']} == PARTS[framework]
    with open(tmp_path / 'energy.csv', newline='') as file:
        assert [row['name'] for row in csv.DictReader(file)] == [
            layer['name'] for layer in content['layers']]
    assert (tmp_path / 'energy.png').read_bytes()[1:4] == b'PNG'


def test_two_detectors_have_as_many_regions(small, tmp_path, monkeypatch,
                                            capsys):
    """Whatever they find: their ANN counterparts are alike."""
    config, checkpoint = small('mmdet')
    other = tmp_path / 'other.pth'
    weights = torch.load(checkpoint, weights_only=True)['state_dict']
    for name, value in weights.items():
        # Neurons of neck and heads fire, and other regions are the best.
        if name.endswith('bias') and not name.startswith('backbone'):
            value.add_(2 * torch.rand_like(value))
    torch.save(dict(state_dict=weights), other)
    totals = []
    for path in (checkpoint, other):
        run_tool(monkeypatch, config.parent, 'energy.py', config, path,
                 '--images', '1', '--regions', '7', '--work-dir', tmp_path,
                 '--layers', '--skip-zeros')
        text = capsys.readouterr().out
        assert 'best 7 proposals and 100 detections' in text
        assert text.index('to quote') < text.index('Layers: ')
        totals.append(json.loads((tmp_path / 'energy.json').read_text())
                      ['totals_millijoule'])
    for part in totals[0]:
        assert totals[0][part]['ann'] == pytest.approx(
            totals[1][part]['ann'], rel=1e-12)
    assert totals[0]['total']['formula'] != totals[1]['total']['formula']


def test_paper_has_a_row_for_every_run(small, tmp_path, monkeypatch, capsys):
    runs = [small(framework) for framework in ('mmpretrain', 'mmseg')]
    runs.append(runs[0])
    run_tool(monkeypatch, runs[0][0].parent, 'paper.py',
             *(path for run in runs for path in run), '--images', '1',
             '--out', tmp_path / 'table.md')
    text = capsys.readouterr().out
    table = (tmp_path / 'table.md').read_text()
    assert table in text and 'to quote' in text
    head, _, first, second, third = (
        [cell.strip() for cell in line.split('|')[1:-1]]
        for line in table.splitlines())
    assert [row[0] for row in (first, second, third)] == [
        'mmpretrain', 'mmseg', 'mmpretrain']
    assert first == third
    assert head[-2:] == ['top-1, %', 'mIoU, %']
    assert float(first[-2]) >= 0 and first[-1] == second[-2] == '-'
    run_tool(monkeypatch, runs[0][0].parent, 'paper.py', *runs[1],
             '--images', '1', '--no-score', '--latex')
    text = capsys.readouterr().out
    assert r'\bottomrule' in text and 'mIoU' not in text
    with pytest.raises(SystemExit, match='pairs of a config and a check'):
        run_tool(monkeypatch, runs[0][0].parent, 'paper.py', *runs[1],
                 runs[0][0])


@pytest.mark.parametrize('framework', CONFIGS)
def test_report_is_one_whole_page(framework, small, tmp_path, monkeypatch,
                                  capsys):
    config, checkpoint = small(framework)
    run = tmp_path / 'a_run'
    log = run / '20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    score = dict(mmpretrain='accuracy/top1', mmdet='coco/bbox_mAP',
                 mmseg='mIoU')[framework]
    log.write_text('\n'.join(json.dumps(line) for line in (
        dict(loss=2., iter=1, step=1), dict(loss=1., iter=2, step=2),
        {score: .25, 'step': 2})))
    shutil.copy(config, run / 'its_config.py')
    shutil.copy(checkpoint, run / 'epoch_2.pth')
    run_tool(monkeypatch, config.parent, 'report.py', run, '--images', '1',
             '--pictures', '1')
    assert 'left out' not in capsys.readouterr().out
    page = check_page(run / 'report.html')
    # Curves, a prediction, spikes twice, energy.
    assert len(page.pictures) == 5
    for words in ('its_config: a_run', f'{score}: 0.25 at the end',
                  'to quote', 'spikes, bitwise', 'bytes on disk', 'mmqsdt',
                  'train_dataloader'):
        assert words in page.words, words
    (run / '20260101_000000/vis_data/scalars.json').unlink()
    run_tool(monkeypatch, config.parent, 'report.py', run, '--images', '1',
             '--pictures', '1', '--out', tmp_path / 'x.html')
    assert 'Training: left out' in capsys.readouterr().out
    assert len(check_page(tmp_path / 'x.html').pictures) == 4


def test_report_of_no_run(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match='no work dir at none'):
        run_tool(monkeypatch, tmp_path, 'report.py', 'none')
    with pytest.raises(SystemExit, match='has no config'):
        run_tool(monkeypatch, tmp_path, 'report.py', tmp_path)


def test_energy_costs_come_from_the_config(small, tmp_path, monkeypatch):
    config, checkpoint = small('mmpretrain')
    common = (monkeypatch, config.parent, 'energy.py', config, checkpoint,
              '--images', '1', '--work-dir', tmp_path, '--cfg-options')
    run_tool(*common, 'energy_costs.mac_pj=3.1', 'energy_costs.ac_pj=0.1')
    content = json.loads((tmp_path / 'energy.json').read_text())
    assert content['costs'] == vars(EnergyCosts(3.1, .1))
    assert 'names no source' in content['costs']['source']
    for option in ('energy_costs.mac=3.1', 'energy_costs.mac_pj=much'):
        with pytest.raises(SystemExit, match='energy_costs must be dict'):
            run_tool(*common, option)


@pytest.mark.parametrize('tool, args, reason', [
    ('pack.py', ['x.pth'], 'must end in .safetensors, got x.pth'),
    ('pack.py', ['x.safetensors', '--unpack'], 'must end in .pth'),
    ('energy.py', ['--images', '0'], 'images must be at least 1, got 0'),
])
def test_bad_arguments(tool, args, reason, small, monkeypatch):
    config, checkpoint = small('mmpretrain')
    with pytest.raises(SystemExit, match=re.escape(reason)):
        run_tool(monkeypatch, config.parent, tool, config, checkpoint, *args)


@pytest.mark.parametrize('unpack', [False, True])
def test_a_place_that_cannot_be_written(unpack, small, tmp_path, monkeypatch,
                                        capsys):
    config, checkpoint = small('mmpretrain')
    packed = tmp_path / 'x.safetensors'
    run_tool(monkeypatch, config.parent, 'pack.py', config, checkpoint,
             packed)
    name, options = ('y.pth', ['--unpack']) if unpack else (
        'y.safetensors', [])
    with pytest.raises(SystemExit, match='Not a directory|File exists'):
        run_tool(monkeypatch, config.parent, 'pack.py', config, packed,
                 packed / name, *options)
    assert list(tmp_path.iterdir()) == [packed]


@pytest.mark.parametrize('tool, args', [
    ('pack.py', ['x.pth', '--unpack']),
    ('test.py', []),
    ('energy.py', []),
])
def test_packed_weights_of_another_model_are_refused(
        tool, args, small, tmp_path, monkeypatch):
    config, checkpoint = small('mmpretrain')
    packed = tmp_path / 'x.safetensors'
    run_tool(monkeypatch, config.parent, 'pack.py', config, checkpoint,
             packed)
    with pytest.raises(SystemExit, match='was packed from another model'):
        run_tool(monkeypatch, config.parent, tool, config, packed, *args,
                 '--cfg-options', 'model.backbone.weight_bits=8')
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(SystemExit, match='truncated|damaged'):
        run_tool(monkeypatch, config.parent, tool, config, packed, *args)


def test_a_missing_checkpoint(small, monkeypatch):
    config, _ = small('mmpretrain')
    for tool, more in (('energy.py', []), ('pack.py', ['x.safetensors'])):
        with pytest.raises(SystemExit, match='no checkpoint at none.pth'):
            run_tool(monkeypatch, config.parent, tool, config, 'none.pth',
                     *more)


def test_an_ann_has_no_spikes_to_count(small, monkeypatch, tmp_path):
    config, checkpoint = small('mmpretrain')
    with pytest.raises(SystemExit, match='not a spiking model'):
        run_tool(monkeypatch, config.parent, 'energy.py', config, checkpoint,
                 '--images', '1', '--work-dir', tmp_path, '--cfg-options',
                 'model.backbone.neuron.type=ReLU',
                 'model.head.neuron.type=ReLU')
    assert not list(tmp_path.iterdir())
