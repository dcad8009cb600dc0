"""Energy reports as tables for a terminal."""

from rich.table import Table

from ..utils.tables import new_table, print_table
from .energy_report import (
    ANN_BITS,
    QUOTE,
    SATURATED,
    SILENT,
    EnergyReport,
    LayerEnergy,
)

TITLES = dict(
    ann='ANN counterpart',
    ann_as_published='ANN counterpart, RepConv merged',
    formula="field's formula",
    as_published='as published (RepConv merged)',
    counted_thermometer='counted, thermometer slots',
    counted_bitwise='counted, bitwise slots',
    bits_thermometer='counted, bits-aware, thermometer [1]',
    bits_bitwise='counted, bits-aware, bitwise [1]',
    ann_int8='int8 ANN counterpart',
    ann_int4='int4 ANN counterpart',
    integer_thermometer='integers, thermometer slots',
    integer_bitwise='integers, bitwise slots',
    ann_memory='ANN counterpart, with memory',
    ann_int8_memory='int8 ANN counterpart, with memory',
    ann_int4_memory='int4 ANN counterpart, with memory',
    memory_thermometer='integers and memory, thermometer slots [2]',
    memory_bitwise='integers and memory, bitwise slots')
# The first measure on integers, and the first with memory.
BLOCKS = ('ann_int8', 'ann_memory')


def print_report(report: EnergyReport, layers: bool = False) -> None:
    """Print the totals, what to make of them, and what stands out.

    Args:
        report (EnergyReport): Of :func:`measure_energy`.
        layers (bool): Print the table of layers as well.
    """
    tables = [total_table(report)]
    if report.flagged():
        tables.append(flag_table(report))
    if layers:
        tables.append(layer_table(report))
    print_table(tables[0])
    print(notes(report), end='\n\n')
    for table in tables[1:]:
        print_table(table)


def notes(report: EnergyReport) -> str:
    """How to read the totals, and which row to quote."""
    quoted = report.totals()['total'][QUOTE]
    times = ' and '.join(
        f'the int{bits} ANN takes {report.ratios(bits)[QUOTE]:.2f} times that'
        for bits in ANN_BITS if QUOTE in report.ratios(bits))
    zeros = ' Products with a zero are left out of the integer rows, on ' \
        'both sides.' if report.skip_zeros else ''
    return (
        '[1] sets a network of few bits against an ANN of 32: not to be '
        'quoted without the integer rows\n'
        f'[2] to quote: {quoted:.4g} mJ an image, counted; {times}.{zeros}\n'
        '    To compare with papers that use the formula: as published.\n'
        f'Costs {report.costs.source}; an integer product of other widths '
        'than 8 bits is scaled from it.')


def flag_table(report: EnergyReport) -> Table:
    """Neurons that fire nearly always or nearly never."""
    table = new_table(
        f'Neurons with a rate above {SATURATED} or below {SILENT}',
        ('neuron', ), ('firing rate', ))
    table.add_column('')
    for path, flag in report.flagged().items():
        table.add_row(path, f'{report.neurons[path].rate:.2%}', flag)
    return table


def total_table(report: EnergyReport) -> Table:
    """One line a measure: mJ of every part and of the whole, and ratios."""
    totals = report.totals()
    ratios = {bits: report.ratios(bits) for bits in (32, *ANN_BITS)}
    table = new_table(
        f'Energy of one image in mJ, mean over {report.images} '
        f'({report.costs.mac_pj} pJ a MAC, {report.costs.ac_pj} pJ an AC)',
        ('measure', ),
        (*totals, *(f'int{bits} ANN /\nmodel' if bits < 32 else 'ANN /\nmodel'
                    for bits in ratios)))
    for measure in report.measures:
        if measure in BLOCKS:
            table.add_section()
        table.add_row(
            TITLES[measure],
            *(f'{totals[part][measure]:.4g}' for part in totals),
            *(f'{each[measure]:.2f}' if measure in each else ''
              for each in ratios.values()))
    return table


def layer_table(report: EnergyReport) -> Table:
    """One line a layer: rates, operations in millions, energy in uJ.

    Operations are AC where a layer reads spikes, else MAC; counted ones are
    those of thermometer slots. A rate near 0 or 1 has a mark. The files have
    the rest.
    """
    table = new_table(
        'Layers: what one image costs', ('layer', 'kind', 'reads', 'bits'),
        ('firing\nrate', 'non-\nzero', 'dense\nM MAC', 'formula\nM AC',
         'counted\nM AC', 'M MAC', 'formula\nuJ', 'counted\nuJ',
         'bits-aware\nuJ'))
    for layer in report.layers:
        table.add_row(*_cells(layer))
    return table


def _cells(layer: LayerEnergy) -> list[str]:
    cells = [layer.name, layer.kind, layer.reads, str(layer.bits or '-')]
    for share in (layer.firing_rate, layer.share_nonzero):
        cells.append('-' if share is None else f'{share:.1%}')
    if layer.firing_rate is not None and not (
            SILENT <= layer.firing_rate <= SATURATED):
        cells[4] += ' !'
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
