"""The table that papers on spiking networks have, of one's own runs."""

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ..checkpoints.packing import pack
from ..layers import LSQWeight, SpikingNeuron
from ..layers.lsq import code_width, width_name
from ..utils import tables
from .energy_report import ANN_BITS, QUOTE, EnergyReport


@dataclass
class PaperRow:
    """One model.

    Attributes:
        name (str): Of its config.
        parameters (int): All of them, step sizes and thresholds too.
        equivalents (float): Bits of all parameters / 32: what papers give as
            the size of a quantized network.
        bytes (int): Of the packed file; of the float weights, if nothing is
            quantized.
        weights (str): Width of most of its weights.
        spikes (str): T x D of most of its neurons.
        firing_rate (float): Spikes of all neurons over the most there could
            be.
        macs, sops (float): Of one image, as published: products with real
            values, and spikes times fan-out.
        energy (float): 4.6 pJ a MAC and 0.9 pJ a SOP, in mJ, or what the
            config says.
        counted (float): By the measure to quote, in mJ.
        ratios (dict[int, float]): Bits -> what the ANN counterpart of so
            many bits takes by that measure, over the model.
        scores (dict[str, float]): Title -> score.
    """
    name: str
    parameters: int
    equivalents: float
    bytes: int
    weights: str
    spikes: str
    firing_rate: float
    macs: float
    sops: float
    energy: float
    counted: float
    ratios: dict[int, float]
    scores: dict[str, float] = field(default_factory=dict)


def paper_row(name: str, model: nn.Module, report: EnergyReport,
              scores: dict[str, float] | None = None) -> PaperRow:
    """Collect what the table says of a model.

    Args:
        name (str): Of the row.
        model (nn.Module): In float form, as trained.
        report (EnergyReport): Of it, by
            :func:`mmqsdt.measure.energy.measure_energy`.
        scores (dict, optional): Title -> score.
    """
    bits: Counter[int | str | None] = Counter()
    coded = 0.
    for layer in model.modules():
        if isinstance(layer, LSQWeight):
            bits[layer.bits] += layer.weight.numel()
            if layer.bits is not None:
                coded += layer.weight.numel() * (
                    1 - code_width(layer.bits) / 32)
    parameters = sum(p.numel() for p in model.parameters())
    spikes = Counter(f'{n.time_steps} x {n.levels}' for n in model.modules()
                     if isinstance(n, SpikingNeuron))
    rates = report.neurons.values()
    total = report.totals()['total']
    return PaperRow(
        name=name, parameters=parameters, equivalents=parameters - coded,
        bytes=_bytes(model),
        weights=width_name(bits.most_common(1)[0][0] if bits else None),
        spikes=spikes.most_common(1)[0][0],
        firing_rate=sum(r.spikes for r in rates) / max(
            sum(r.elements * r.levels for r in rates), 1),
        macs=sum(x.published['mac'] for x in report.layers),
        sops=sum(x.published['ac'] for x in report.layers),
        energy=total['as_published'], counted=total[QUOTE],
        ratios={b: report.ratios(b).get(QUOTE, float('nan'))
                for b in ANN_BITS},
        scores=scores or {})


def _bytes(model: nn.Module) -> int:
    if not any(getattr(m, 'bits', None) is not None for m in model.modules()
               if isinstance(m, LSQWeight)):
        return sum(x.numel() * x.element_size()
                   for x in model.state_dict().values())
    with tempfile.TemporaryDirectory() as folder:
        return pack(model, str(Path(folder, 'packed.safetensors'))).file


def cells(rows: list[PaperRow]) -> list[list[str]]:
    """Return the titles, and the text of every row."""
    titles = list(dict.fromkeys(t for row in rows for t in row.scores))
    lines = [[
        'model', 'parameters, M', '32-bit equivalents, M', 'bytes on disk',
        'weights', 'T x D', 'firing rate, %', 'MACs, M', 'SOPs, M',
        'energy by the formula, mJ', 'counted, with memory, mJ',
        *(f'int{b} ANN over that' for b in ANN_BITS), *titles]]
    for row in rows:
        lines.append([
            row.name, f'{row.parameters / 1e6:.2f}',
            f'{row.equivalents / 1e6:.2f}', f'{row.bytes:,}', row.weights,
            row.spikes, f'{100 * row.firing_rate:.1f}',
            f'{row.macs / 1e6:.2f}', f'{row.sops / 1e6:.2f}',
            f'{row.energy:.3g}', f'{row.counted:.3g}',
            *(f'{row.ratios[b]:.2f}' for b in ANN_BITS),
            *(f'{row.scores[t]:.1f}' if t in row.scores else '-'
              for t in titles)])
    return lines


def to_markdown(rows: list[PaperRow]) -> str:
    """Write a table for a page."""
    head, *body = cells(rows)
    return tables.to_markdown(head, body)


def to_latex(rows: list[PaperRow]) -> str:
    r"""Write a table for a paper; ``\usepackage{booktabs}``."""
    head, *body = ([_escaped(cell) for cell in line] for line in cells(rows))
    return '\n'.join([
        rf'\begin{{tabular}}{{l{"r" * (len(head) - 1)}}}', r'\toprule',
        f'{" & ".join(head)} \\\\', r'\midrule',
        *(f'{" & ".join(line)} \\\\' for line in body),
        r'\bottomrule', r'\end{tabular}'])


def _escaped(cell: str) -> str:
    for sign in '_%&#':
        cell = cell.replace(sign, f'\\{sign}')
    return cell.replace(' x ', r' $\times$ ')
