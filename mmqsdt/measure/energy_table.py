"""Energy reports as tables for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .energy import EnergyReport, LayerEnergy

TITLES = dict(
    ann='ANN counterpart',
    ann_as_published='ANN counterpart, RepConv merged',
    formula="field's formula",
    as_published='as published (RepConv merged)',
    counted_thermometer='counted, thermometer slots',
    counted_bitwise='counted, bitwise slots',
    bits_thermometer='counted, bits-aware, thermometer',
    bits_bitwise='counted, bits-aware, bitwise')


def print_report(report: EnergyReport) -> None:
    """Print the table of layers, then the table of totals."""
    table = layer_table(report)
    console = Console()
    wide = Console(width=500).measure(table).maximum
    console = Console(width=max(console.width, wide))
    console.print(table)
    console.print(total_table(report))


def total_table(report: EnergyReport) -> Table:
    """One line a measure: mJ of every part and of the whole, and ratio."""
    totals, ratios = report.totals(), report.ratios()
    table = Table(
        title=f'Energy of one image in mJ, mean over {report.images} '
        f'({report.costs.mac_pj} pJ a MAC, {report.costs.ac_pj} pJ an AC)',
        title_justify='left',
        box=SIMPLE_HEAD)
    table.add_column('measure')
    for part in totals:
        table.add_column(part, justify='right')
    table.add_column('ANN / model', justify='right')
    for measure in report.measures:
        table.add_row(
            TITLES[measure],
            *(f'{totals[part][measure]:.4g}' for part in totals),
            f'{ratios[measure]:.2f}' if measure in ratios else '')
    return table


def layer_table(report: EnergyReport) -> Table:
    """One line a layer: rates, operations in millions, energy in uJ.

    Operations are AC where a layer reads spikes, else MAC; counted ones are
    those of thermometer slots. The files have the rest.
    """
    table = Table(
        title='Layers: what one image costs',
        title_justify='left',
        box=SIMPLE_HEAD)
    for name in ('layer', 'kind', 'reads', 'bits'):
        table.add_column(name, no_wrap=True)
    for name in ('firing\nrate', 'non-\nzero', 'dense\nM MAC',
                 'formula\nM AC', 'counted\nM AC', 'M MAC', 'formula\nuJ',
                 'counted\nuJ', 'bits-aware\nuJ'):
        table.add_column(name, justify='right', no_wrap=True)
    for layer in report.layers:
        table.add_row(*_cells(layer))
    return table


def _cells(layer: LayerEnergy) -> list[str]:
    cells = [layer.name, layer.kind, layer.reads, str(layer.bits or '-')]
    for share in (layer.firing_rate, layer.share_nonzero):
        cells.append('-' if share is None else f'{share:.1%}')
    cells.append(f'{layer.macs / 1e6:.3f}')
    counted = layer.counted['thermometer']
    if layer.reads == 'spike':
        cells += [f'{layer.synaptic_operations / 1e6:.3f}',
                  f'{counted["ac"] / 1e6:.3f}', '-']
    else:
        cells += ['-', '-', f'{counted["mac"] / 1e6:.3f}']
    for measure in ('formula', 'counted_thermometer', 'bits_thermometer'):
        cells.append(f'{layer.energy[measure] * 1e3:.3f}')
    return cells
