"""The table of a paper: figures that follow from one another."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, METRICS
from test_energy import backbone
from torch import nn
from torch.utils.data import Dataset

from mmqsdt.checkpoints import pack
from mmqsdt.layers import SpikingNeuron
from mmqsdt.measure.energy import measure_energy
from mmqsdt.measure.paper_table import (
    PaperRow,
    cells,
    paper_row,
    to_latex,
    to_markdown,
)
from mmqsdt.measure.score import MAIN, measure_score


def row_of(model: nn.Module, **kwargs) -> PaperRow:
    report = measure_energy(model, [torch.randn(1, 3, 32, 32)])
    return paper_row('a_name', model, report, **kwargs)


@pytest.mark.parametrize('bits', [None, 1, 'ternary', 4])
def test_a_row(bits, tmp_path):
    model = backbone(weight_bits=bits)
    row = row_of(model)
    numbers = {name: p.numel() for name, p in model.named_parameters()}
    coded = sum(n for name, n in numbers.items()
                if name.removesuffix('weight') + 'step_size' in numbers)
    assert row.parameters == sum(numbers.values())
    width = {None: 32, 1: 1, 'ternary': 1.6, 4: 4}[bits]
    assert row.equivalents == pytest.approx(
        row.parameters - coded * (1 - width / 32))
    assert (coded > 0) == (bits is not None)
    if bits is not None:
        assert row.bytes == pack(model, tmp_path / 'x.safetensors').file
    else:
        assert row.bytes == sum(x.numel() * x.element_size()
                                for x in model.state_dict().values())
    assert row.weights == {None: 'float weights', 1: '1 bit',
                           'ternary': 'ternary codes', 4: '4 bits'}[bits]
    assert row.spikes == '1 x 4'
    # The formula, from the figures that stand beside it.
    assert row.energy == pytest.approx(
        (4.6 * row.macs + .9 * row.sops) * 1e-9)
    # Only the stem reads real values: 32 x 32 x 3 at stride 2, 7 x 7.
    assert row.macs == 16 * 16 * 3 * 4 * 49
    assert 0 < row.firing_rate < 1


def test_firing_rate_is_of_all_neurons():
    model = backbone()
    x, seen = torch.randn(1, 3, 32, 32), []
    for module in model.modules():
        if isinstance(module, SpikingNeuron):
            module.register_forward_hook(
                lambda m, args, out: seen.append(
                    ((out / m.amplitude).sum().item(),
                     out.numel() * m.levels)))
    with torch.no_grad():
        model(x)
    spikes, most = (sum(column) for column in zip(*seen))
    for module in model.modules():
        module._forward_hooks.clear()
    row = paper_row('x', model, measure_energy(model, [x]))
    assert row.firing_rate == pytest.approx(spikes / most)


def test_both_kinds_of_table():
    model = backbone()
    rows = [row_of(model, scores={'top-1, %': 97.25}), row_of(model)]
    markdown = to_markdown(rows).splitlines()
    assert len(markdown) == 4
    assert {line.count('|') for line in markdown} == {len(cells(rows)[0]) + 1}
    assert markdown[2].endswith('| 97.2 |') and markdown[3].endswith('| - |')
    latex = to_latex(rows)
    assert latex.startswith(r'\begin{tabular}{l' + 'r' * (
        len(cells(rows)[0]) - 1) + '}\n')
    assert r'a\_name & ' in latex and r'$1$' not in latex
    assert r'1 $\times$ 4' in latex and r'top-1, \%' in latex
    assert not re.search(r'(?<!\\)[_%#]', latex)
    for line in latex.splitlines():
        if '&' in line:
            assert len(re.findall(r'(?<!\\)&', line)) + 1 == len(
                cells(rows)[0])
            assert line.endswith(r' \\')


# Scores.


@DATASETS.register_module()
class FourNumbers(Dataset):
    metainfo = dict(classes=('a', 'b'))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> float:
        return float(index)


@METRICS.register_module()
class Share(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        assert self.dataset_meta == FourNumbers.metainfo
        self.results += data_samples

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {self.prefix_of: sum(results) / len(results)}


@pytest.mark.parametrize('name', [*MAIN, 'mine'])
def test_scores_are_of_all_test_data(name):

    class Echo(nn.Module):
        def test_step(self, batch) -> list:
            assert not self.training
            return list(batch)

    Share.prefix_of = name
    cfg = Config(dict(
        test_dataloader=dict(
            dataset=dict(type='FourNumbers'), batch_size=3, num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False)),
        test_evaluator=dict(type='Share')))
    title, factor = MAIN.get(name, (name, 1))
    assert measure_score(cfg, Echo()) == {
        title: pytest.approx(1.5 * factor)}
    with pytest.raises(ValueError, match='expected test_dataloader'):
        measure_score(Config(dict(test_dataloader=None)), Echo())
