"""Draw docs/images/neuron.png, of the page on concepts.

    python docs/draw_concepts.py
"""

from pathlib import Path

import matplotlib
import torch

from mmqsdt import IELIF
from mmqsdt.deploy.spikes import ENCODINGS, encode, slot_weights

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

LEVELS = 4
OUT = Path(__file__).parent / 'images/neuron.png'


def draw_transfer(axes: plt.Axes) -> None:
    """Count and gradient against the potential."""
    neuron = IELIF(levels=LEVELS)
    potential = torch.linspace(-0.4, 1.4, 1801).requires_grad_()
    count = neuron.count(potential)
    slope, = torch.autograd.grad(count.sum(), potential)
    x = potential.detach() / neuron.threshold
    axes.fill_between(
        x, 0, LEVELS * (slope > 0), color='#56B4E9', alpha=0.25,
        linewidth=0, label='gradient passes')
    axes.plot(x, x.clamp(min=0), color='0.5', linestyle=':', label='ReLU')
    axes.plot(x, count.detach(), color='#0072B2', linewidth=2,
              label='count C')
    axes.set(title='One neuron', xlabel='potential H / threshold',
             ylabel='spike count C', ylim=(-0.2, 5.2),
             yticks=range(LEVELS + 1))
    axes.legend(frameon=False, loc='upper left')


def draw_slots(axes: plt.Axes, encoding: str) -> None:
    """Which slots fire for which count."""
    counts = torch.arange(LEVELS + 1.)
    slots = encode(counts, LEVELS, encoding).view(-1, LEVELS + 1)
    weights = slot_weights(LEVELS, encoding)
    axes.imshow(1 - slots.T, cmap='gray', vmin=-0.15, vmax=1.15,
                origin='lower', aspect='equal')
    for slot in range(len(weights)):
        for count in range(LEVELS + 1):
            on = bool(slots[slot, count])
            axes.text(slot, count, int(on), ha='center', va='center',
                      color='white' if on else '0.4')
    axes.set(title=f'{encoding}:\n{len(weights)} binary slots',
             xlabel='weight of the slot', ylabel='count C',
             xticks=range(len(weights)), xticklabels=weights,
             yticks=range(LEVELS + 1))


def main() -> None:
    """Draw all of it."""
    figure, axes = plt.subplots(
        1, 3, figsize=(9, 3.4), layout='constrained',
        width_ratios=(2, 1, 1))
    draw_transfer(axes[0])
    for each, encoding in zip(axes[1:], ENCODINGS):
        draw_slots(each, encoding)
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, dpi=110)
    print(OUT)


if __name__ == '__main__':
    main()
