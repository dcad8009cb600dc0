"""Draw docs/images/neuron.png and window.png, of the page on concepts.

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
OUT = Path(__file__).parent / 'images'


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


def normal_potentials() -> tuple[torch.Tensor, torch.Tensor]:
    """Potentials as behind a batch norm, and their probabilities."""
    x = torch.linspace(-6, 6, 24001, dtype=torch.float64)
    p = torch.exp(-x.square() / 2)
    return x, p / p.sum()


def gain(spikes: torch.Tensor, slope: torch.Tensor,
         p: torch.Tensor) -> float:
    """By how much a gradient grows from one batch norm back to the next.

    The norm divides by the spread of the spikes, the neuron multiplies with
    its slope: sqrt(mean(slope^2)) / std(spikes).
    """
    mean = (p * spikes).sum()
    spread = (p * (spikes - mean).square()).sum().sqrt()
    return float((p * slope.square()).sum().sqrt() / spread)


def draw_windows(axes: plt.Axes) -> None:
    """Draw the window of two thresholds over a batch norm's output."""
    x, p = normal_potentials()
    density = p / (x[1] - x[0])
    axes.plot(x, density, color='0.3')
    for threshold, color, top in ((0.25, '#D55E00', 0.09),
                                  (0.8, '#0072B2', 0.03)):
        inside = (x > 0) & (x < LEVELS * threshold)
        share = float(p[inside].sum())
        clipped = float(p[x >= LEVELS * threshold].sum())
        axes.plot([0, LEVELS * threshold], [top, top], color=color,
                  linewidth=5, solid_capstyle='butt',
                  label=f'$\\theta$ = {threshold:g}: {share:.0%} in the '
                  f'window,\n{clipped:.1%} above it')
    axes.set(title='Potentials behind a batch norm', xlim=(-3.5, 4.5),
             xlabel='potential H', ylabel='density', ylim=(0, 0.62))
    axes.legend(frameon=False, loc='upper left', fontsize='small')


def draw_gain(axes: plt.Axes) -> None:
    """Gain of a layer against the threshold, beside that of ReLU."""
    x, p = normal_potentials()
    relu = gain(x.clamp(min=0), (x > 0).double(), p)
    thresholds = torch.linspace(0.1, 1.5, 141)
    for levels, color in ((4, '#0072B2'), (8, '#009E73')):
        gains = []
        for threshold in thresholds:
            neuron = IELIF(levels, float(threshold), float(threshold))
            potential = x.clone().requires_grad_()
            spikes = neuron(potential)
            slope, = torch.autograd.grad(spikes.sum(), potential)
            gains.append(gain(spikes.detach(), slope, p))
        axes.plot(thresholds, gains, color=color, label=f'D = {levels}')
        print(f'D = {levels}: gain over that of ReLU at threshold 0.25: '
              f'{gains[15] / relu:.2f}, at 0.8: {gains[70] / relu:.2f}')
    axes.axhline(relu, color='0.5', linestyle=':', label='ReLU')
    axes.axvline(0.25, color='#D55E00', linewidth=0.8)
    axes.set(title='Gain of a gradient, layer by layer',
             xlabel='threshold', ylabel='gain from norm to norm',
             ylim=(0.9, 2.1))
    axes.legend(frameon=False)


def draw_clipping() -> None:
    """Window and gain, side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout='constrained')
    draw_windows(axes[0])
    draw_gain(axes[1])
    figure.savefig(OUT / 'window.png', dpi=110)


def main() -> None:
    """Draw all of it."""
    figure, axes = plt.subplots(
        1, 3, figsize=(9, 3.4), layout='constrained',
        width_ratios=(2, 1, 1))
    draw_transfer(axes[0])
    for each, encoding in zip(axes[1:], ENCODINGS):
        draw_slots(each, encoding)
    OUT.mkdir(exist_ok=True)
    figure.savefig(OUT / 'neuron.png', dpi=110)
    draw_clipping()


if __name__ == '__main__':
    main()
