"""What is known of the energy of a model: layers, totals, comparisons."""

import csv
import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..checkpoints.atomic import write_text
from .costs import EnergyCosts
from .firing import FiringRate

# Of ANN counterparts whose weights and activations are both quantized.
ANN_BITS = (8, 4)
# The measure to quote, with its ratios to those counterparts: additions that
# were counted, in the arithmetic of both sides, memory included, in the
# encoding that was published.
QUOTE = 'memory_thermometer'
# A neuron that fires more, or less, carries next to no information.
SATURATED, SILENT = 0.95, 0.005


@dataclass
class LayerEnergy:
    """Operations and energy of one layer for one image.

    Attributes:
        name (str): Path in the model.
        part (str): The model's child it belongs to, e.g. 'backbone'.
        kind, reads, levels, bits, operation, source: See
            :class:`mmqsdt.deploy.LayerDescription`.
        macs (float): Multiply-accumulates of the dense layer, none with
            padding.
        padded_macs (float): Those with padding included, as papers count.
        ann_macs (float): Macs of the ANN counterpart; fewer if a picture is
            repeated over time.
        weights (int): How many it has.
        inputs (float): Values that it reads.
        ann_inputs (float): The same of the ANN counterpart.
        membrane (float): Membrane potentials carried from one time step to
            the next, of the neurons whose spikes it is the first to read.
        firing_rate (float, optional): Mean count / D of what it reads; of
            q, k and v together for their product.
        share_nonzero (float, optional): Share of elements that fire, of the
            same.
        synaptic_operations (float): Accumulates by the field's formula; 0
            for a layer that reads real values.
        published (dict[str, float]): 'ac' and 'mac' by that formula as
            papers use it.
        counted (dict[str, dict[str, float]]): Encoding -> {'ac', 'mac'},
            one of which is 0.
        nonzero (dict[str, float]): 'ann', encoding -> products in which no
            operand is zero, if they were counted.
        energy (dict[str, float]): Measure -> mJ.
    """
    name: str
    part: str
    kind: str
    reads: str
    levels: int | None
    bits: int | str | None
    operation: str
    source: str = ''
    macs: float = 0.
    padded_macs: float = 0.
    ann_macs: float = 0.
    weights: int = 0
    inputs: float = 0.
    ann_inputs: float = 0.
    membrane: float = 0.
    firing_rate: float | None = None
    share_nonzero: float | None = None
    synaptic_operations: float = 0.
    published: dict[str, float] = field(default_factory=dict)
    counted: dict[str, dict[str, float]] = field(default_factory=dict)
    nonzero: dict[str, float] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)


@dataclass
class EnergyReport:
    """Result of :func:`measure_energy`.

    Attributes:
        layers (list[LayerEnergy]): In order of the model; without those
            that did not run, such as an auxiliary head.
        images (int): Images it is the mean of.
        costs (EnergyCosts): What an operation costs.
        neurons (dict[str, FiringRate]): What each neuron fired, by path.
        skip_zeros (bool): Whether the integer rows leave out products with
            a zero, on both sides.
    """
    layers: list[LayerEnergy]
    images: int
    costs: EnergyCosts
    neurons: dict[str, FiringRate] = field(default_factory=dict)
    skip_zeros: bool = False

    @property
    def measures(self) -> list[str]:
        """Names of the measures."""
        return list(self.layers[0].energy)

    def totals(self) -> dict[str, dict[str, float]]:
        """Part of the model -> measure -> mJ, the whole as 'total'."""
        parts = list(dict.fromkeys(layer.part for layer in self.layers))
        sums = {
            part: {
                m: sum(x.energy[m] for x in self.layers if x.part == part)
                for m in self.measures
            }
            for part in parts
        }
        sums['total'] = {
            m: sum(x.energy[m] for x in self.layers)
            for m in self.measures
        }
        return sums

    def ratios(self, bits: int | None = None) -> dict[str, float]:
        """Measure -> energy of the ANN counterpart over that of the model.

        Without the measures by which the model needs no energy at all.

        Args:
            bits (int, optional): Of the counterpart's weights and
                activations: 32 (floats), 8 or 4, for the measures that have
                such a counterpart. None takes the fewest of each measure.
        """
        total, found = self.totals()['total'], {}
        for measure in self.measures:
            against = self.counterparts(measure)
            width = bits or min(against, default=0)
            if width in against and total[measure]:
                found[measure] = total[against[width]] / total[measure]
        return found

    @staticmethod
    def counterparts(measure: str) -> dict[int, str]:
        """Bits -> measure of the ANN that a measure is compared with."""
        if measure.startswith('ann'):
            return {}
        if measure == 'as_published':
            return {32: 'ann_as_published'}
        if measure.startswith('integer'):
            return {b: f'ann_int{b}' for b in ANN_BITS}
        if measure.startswith('memory'):
            return {32: 'ann_memory'} | {
                b: f'ann_int{b}_memory' for b in ANN_BITS}
        return {32: 'ann'}

    def flagged(self) -> dict[str, str]:
        """Path of a neuron -> 'saturated' or 'silent', where it is either."""
        return {
            path: 'saturated' if rate.rate > SATURATED else 'silent'
            for path, rate in self.neurons.items()
            if rate.elements and not SILENT <= rate.rate <= SATURATED
        }

    def write_json(self, path: str | Path) -> None:
        """Write everything, layers and totals."""
        content = dict(
            images=self.images,
            costs=asdict(self.costs),
            skip_zeros=self.skip_zeros,
            totals_millijoule=self.totals(),
            quote=QUOTE,
            ann_over_model=self.ratios(),
            ann_over_model_by_bits={b: self.ratios(b)
                                    for b in (32, *ANN_BITS)},
            flagged_neurons=self.flagged(),
            firing_rates={path: rate.rate
                          for path, rate in self.neurons.items()},
            layers=[asdict(layer) for layer in self.layers])
        write_text(path, json.dumps(content, indent=2) + '\n')

    def write_csv(self, path: str | Path) -> None:
        """Write one line a layer."""
        rows = []
        for layer in self.layers:
            row = asdict(layer)
            for kind, count in row.pop('published').items():
                row[f'{kind}_as_published'] = count
            for encoding, counts in row.pop('counted').items():
                for kind, count in counts.items():
                    row[f'{kind}_{encoding}'] = count
            for kind, count in row.pop('nonzero').items():
                row[f'nonzero_{kind}'] = count
            for measure, energy in row.pop('energy').items():
                row[f'millijoule_{measure}'] = energy
            rows.append(row)
        file = io.StringIO(newline='')
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, file.getvalue())
