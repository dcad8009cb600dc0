import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmqsdt import QSDTransformer
from mmqsdt.distill import fgd_loss
from mmqsdt.measure import spike_entropy
from mmqsdt.measure.entropy import BINS, entropy_bits, write_json
from mmqsdt.measure.entropy_plot import plot_entropy
from mmqsdt.measure.entropy_table import entropy_table

ROOT = Path(__file__).parents[2]
ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(2, 1), num_heads=2)
ANN = dict(weight_bits=None, neuron=dict(type='ReLU'))


def batches() -> list[torch.Tensor]:
    return [torch.rand(2, 3, 32, 32), torch.rand(1, 3, 32, 32)]


@pytest.mark.parametrize('counts, bits', [
    ([4, 4, 4, 4], 2.), ([7, 0], 0.), ([1, 1, 0], 1.),
    ([3, 1], 2 - 0.75 * math.log2(3)), ([1] * 5, math.log2(5)), ([], 0.)])
def test_entropy_of_a_histogram(counts, bits):
    assert entropy_bits(counts) == pytest.approx(bits, abs=1e-15)


@pytest.mark.parametrize('neuron, levels', [
    (dict(type='mmqsdt.IELIF'), 4), (dict(type='mmqsdt.IELIF', levels=2), 2),
    (dict(type='mmqsdt.LIF'), 1)])
@pytest.mark.parametrize('time_steps', [1, 2])
def test_histograms_hold_what_the_neurons_read_and_wrote(
        neuron, levels, time_steps):
    model = QSDTransformer(ARCH, neuron=neuron, time_steps=time_steps)
    seen = []
    k_neuron = model.stages[3].blocks[1].attn.k_neuron
    handle = k_neuron.register_forward_hook(
        lambda module, args, output: seen.append((args[0], output)))
    data = batches()
    report = spike_entropy(model, data)
    handle.remove()
    assert report.images == 3
    assert [(r.layer, r.tensor) for r in report.rows] == [
        (f'stages.{s}.attn', x)
        for s in ('3.blocks.0', '3.blocks.1', '4.blocks.0') for x in 'qkv']
    row = report.rows[4]
    spikes = torch.cat([s.flatten() for _, s in seen]) / (
        0.25 if levels > 1 else 1)
    potentials = torch.cat([p.flatten() for p, _ in seen])
    assert row.counts == [int((spikes == c).sum()) for c in range(levels + 1)]
    assert sum(row.potentials) == potentials.numel() == sum(row.counts)
    assert sum(row.potentials[:BINS // 2]) == int((potentials < 0).sum())
    assert row.levels == levels and row.bound == math.log2(levels + 1)
    assert row.firing_rate == pytest.approx(
        float(spikes.double().mean()) / levels)
    assert 0 <= row.entropy <= row.bound
    assert row.fgd is None
    if time_steps == 1:  # the thresholds alone decide
        counts = torch.bucketize(
            potentials, torch.tensor(row.thresholds), right=True)
        assert torch.equal(counts, spikes.long())
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_distance_to_a_teacher():
    model = QSDTransformer(ARCH)
    teacher = QSDTransformer(ARCH, **ANN).eval()
    data = batches()
    report = spike_entropy(model, data, teacher)
    whole = spike_entropy(model, [torch.cat(data)], teacher)
    for row, expected in zip(report.rows, whole.rows):
        # batches of other sizes: float32 rounding of sums
        assert row.fgd == pytest.approx(expected.fgd, abs=1e-4)

    model.eval()
    kept = {}
    for owner, network in dict(student=model, teacher=teacher).items():
        attn = network.stages[4].blocks[0].attn
        attn.q_neuron.register_forward_hook(
            lambda m, a, out, owner=owner, attn=attn: kept.update(
                {owner: attn.split_heads(out).transpose(2, 3)}))
        with torch.no_grad():
            network(torch.cat(data))
    expected = fgd_loss(kept['teacher'], kept['student'])
    assert whole.rows[6].fgd == pytest.approx(float(expected), abs=1e-6)
    pooled = report.pooled('q')
    assert pooled.fgd == pytest.approx(
        sum(row.fgd for row in report.rows[::3]) / 3)
    assert pooled.counts == [
        sum(n) for n in zip(*(row.counts for row in report.rows[::3]))]


def test_an_ann_has_potentials_but_no_spikes():
    row = spike_entropy(QSDTransformer(ARCH, **ANN), batches()).rows[0]
    assert sum(row.potentials) == 3 * 16 * 4
    assert row.counts == []
    assert row.entropy is row.bound is row.firing_rate is None


def test_json_table_and_picture(tmp_path):
    data = batches()
    teacher = QSDTransformer(ARCH, **ANN)
    models = dict(
        ann=teacher,
        binary=QSDTransformer(ARCH, neuron=dict(type='mmqsdt.LIF')),
        ours=QSDTransformer(ARCH))
    reports = {n: spike_entropy(m, data, teacher) for n, m in models.items()}
    write_json(reports, tmp_path / 'entropy.json')
    content = json.loads((tmp_path / 'entropy.json').read_text())
    assert list(content) == list(models)
    row = content['ours']['layers'][2]
    assert row['entropy_bits'] == reports['ours'].rows[2].entropy
    assert row['fgd'] == reports['ours'].rows[2].fgd
    table = entropy_table('ours', reports['ours'])
    assert table.row_count == 9 + 3
    plot_entropy(reports, tmp_path / 'entropy.png')
    assert (tmp_path / 'entropy.png').stat().st_size > 10_000


def test_bad_input_is_refused():
    model = QSDTransformer(ARCH)
    with pytest.raises(ValueError, match='no image'):
        spike_entropy(model, [])
    with pytest.raises(ValueError, match='teacher has 2 .* the model 3'):
        spike_entropy(model, batches(),
                      QSDTransformer(dict(ARCH, depths=(1, 1)), **ANN))
    with pytest.raises(ValueError, match='0 QSDTransformer backbones'):
        spike_entropy(torch.nn.Conv2d(3, 3, 1), batches())
    with pytest.raises(ValueError, match='1 channels'):
        spike_entropy(model, [torch.rand(1, 1, 32, 32)])
    assert model.training  # and as it was before
    assert not any(m._forward_hooks for m in model.modules())


def test_both_networks_stay_in_their_mode():
    model, teacher = QSDTransformer(ARCH).eval(), QSDTransformer(ARCH, **ANN)
    spike_entropy(model, batches(), teacher)
    assert not model.training and teacher.training


def visualize(monkeypatch, *args) -> None:
    tool = ROOT / 'tools/visualize.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), *map(str, args)])
    runpy.run_path(str(tool), run_name='__main__')


def test_tool_compares_two_models_with_their_teacher(
        copy_digits, tmp_path, monkeypatch, capsys):
    pytest.importorskip('mmpretrain')
    from mmengine.config import Config

    from mmqsdt.utils.build import build_model
    monkeypatch.chdir(copy_digits(tmp_path))
    student = ROOT / 'configs/cls/qsdt_digits.py'
    teacher = ROOT / 'configs/cls/qsdt-ann_digits.py'
    for path in (student, teacher):
        model = build_model(Config.fromfile(path))
        torch.save(model.state_dict(), path.stem + '.pth')
    visualize(monkeypatch, 'entropy', student, 'qsdt_digits.pth', '--compare',
              teacher, 'qsdt-ann_digits.pth', '--teacher', teacher,
              'qsdt-ann_digits.pth', '--images', 4, '--names', 'SNN', 'ANN',
              '--work-dir', 'out')
    content = json.loads(Path('out/entropy.json').read_text())
    assert content['SNN']['images'] == content['ANN']['images'] == 4
    distances = [row['fgd'] for row in content['SNN']['layers']]
    assert len(distances) == 12 and min(distances) > 0
    assert {row['fgd'] for row in content['ANN']['layers']} == {0.}
    printed = capsys.readouterr().out
    assert 'SNN: spikes of 4 images' in printed
    assert 'written: out/entropy.json, .png' in printed
    assert Path('out/entropy.png').is_file()

    for more, message in ((['--names', 'one', 'two'], '1 different names'),
                          (['--teacher', 'no.py', 'no.pth'], 'no config at'),
                          (['--images', 0], 'images must be at least 1')):
        with pytest.raises(SystemExit, match=message):
            visualize(monkeypatch, 'entropy', student, 'qsdt_digits.pth',
                      *more)
