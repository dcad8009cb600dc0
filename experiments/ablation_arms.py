"""The ablation of neuron, bits and FGD: its arms, its tests, its table."""

from dataclasses import dataclass, field, replace
from statistics import mean, stdev

import numpy as np
from scipy.stats import permutation_test, rankdata, ttest_rel

IELIF = dict(type='mmqsdt.IELIF')  # as published, threshold 0.25
FIXED = dict(type='mmqsdt.IELIF', threshold=0.75, amplitude=0.75)
LEARNED = dict(type='mmqsdt.IELIF', threshold='learned')


@dataclass(frozen=True)
class Arm:
    """One network of the ablation.

    Attributes:
        title (str): Its line in the table.
        neuron (dict): Of the backbone.
        head_neuron (dict): Of the head, whose input is a mean over T.
        weight_bits (int, optional): Of backbone and head.
        time_steps (int): T.
        fgd (dict, optional): Arguments of FGDLoss; None without teacher.
        hook (dict): More arguments of FGDistillHook.
        lr (float): Learning rate.
        longer (int): How many times the usual epochs.
        layer_scale (float, optional): Where the layer scales start; None is
            the backbone's 1e-6.
        attention_scale (float): Factor of q (k^T v).
        from_teacher (bool): Whether the weights start as the teacher's.
        cost (float): Time of a run over that of IE-LIF, roughly: for the
            estimate of the remaining time.
    """
    title: str
    neuron: dict = field(default_factory=IELIF.copy)
    head_neuron: dict = field(default_factory=IELIF.copy)
    weight_bits: int | None = 4
    time_steps: int = 1
    fgd: dict | None = None
    hook: dict = field(default_factory=dict)
    lr: float = 5e-3
    longer: int = 1
    layer_scale: float | None = None
    attention_scale: float = 0.25
    from_teacher: bool = False
    cost: float = 1.


def lif(threshold: float) -> dict:
    """Make the config of a binary LIF neuron."""
    return dict(type='mmqsdt.LIF', threshold=threshold)


RELU = dict(type='ReLU')
FGD = dict(loss_weight=1.)
# The threshold is the best of TRIALS at T = 1, on validation images.
ARMS = {
    'ann': Arm('ANN counterpart', RELU, RELU, None),
    'lif_t1': Arm('binary LIF, T = 1', lif(0.5), cost=1.4),
    'lif_t4': Arm('binary LIF, T = 4', lif(0.5), time_steps=4, cost=4.5),
    'ielif': Arm('IE-LIF'),
    'learned': Arm('IE-LIF, learned threshold', LEARNED, LEARNED),
    'fixed': Arm('IE-LIF, threshold 0.75', FIXED, FIXED),
    'learned_fgd': Arm(
        'IE-LIF, learned threshold + FGD', LEARNED, LEARNED, fgd=FGD,
        cost=1.5),
    'learned_start': Arm(
        'IE-LIF, learned threshold, from the ANN', LEARNED, LEARNED,
        from_teacher=True),
    'learned_2bit': Arm(
        'IE-LIF, learned threshold', LEARNED, LEARNED, weight_bits=2),
    'ielif_fgd': Arm('IE-LIF + FGD', fgd=FGD, cost=1.5),
    'ielif_start': Arm('IE-LIF, from the ANN', from_teacher=True),
    'ielif_start_fgd': Arm(
        'IE-LIF + FGD, from the ANN', from_teacher=True, fgd=FGD, cost=1.5),
    'ielif_2bit': Arm('IE-LIF', weight_bits=2),
    'ielif_2bit_fgd': Arm('IE-LIF + FGD', weight_bits=2, fgd=FGD, cost=1.5),
}

# What the paper expects to be better, and what worse.
COMPARISONS = (('ielif', 'lif_t1'), ('ielif', 'lif_t4'),
               ('ielif_fgd', 'ielif'), ('ielif_start', 'ielif'),
               ('ielif_start_fgd', 'ielif_start'),
               ('ielif_2bit_fgd', 'ielif_2bit'), ('ann', 'ielif'),
               ('learned', 'ielif'), ('learned', 'fixed'),
               ('learned', 'lif_t4'), ('learned_fgd', 'learned'),
               ('learned_start', 'learned'), ('learned_2bit', 'ielif_2bit'),
               ('ann', 'learned'))

# Tried on validation images: what -> (arm, its changes).
LONG = dict(longer=4)
SCALED = dict(layer_scale=0.1)
SMALL = dict(attention_scale=1 / 32)
TRIALS = {
    'learned': ('learned', {}),
    'ann, lr 0.002': ('ann', dict(lr=2e-3)),
    'ielif, lr 0.002': ('ielif', dict(lr=2e-3)),
    'ielif_fgd, weight 1, lr 0.002':
    ('ielif_fgd', dict(lr=2e-3, fgd=dict(loss_weight=1.))),
    'ielif': ('ielif', {}),
    'ann': ('ann', {}),
    'lif_t1, threshold 1': ('lif_t1', dict(neuron=lif(1.))),
    'lif_t1, threshold 0.5': ('lif_t1', dict(neuron=lif(0.5))),
    'lif_t1, threshold 0.25': ('lif_t1', dict(neuron=lif(0.25))),
    'lif_t4, threshold 0.5': ('lif_t4', dict(neuron=lif(0.5))),
    'lif_t4, threshold 1': ('lif_t4', dict(neuron=lif(1.))),
    'ielif_fgd, weight 0.3': ('ielif_fgd', dict(fgd=dict(loss_weight=0.3))),
    'ielif_fgd, weight 1': ('ielif_fgd', dict(fgd=dict(loss_weight=1.))),
    'ielif_fgd, weight 3': ('ielif_fgd', dict(fgd=dict(loss_weight=3.))),
    'ielif_fgd, first half':
    ('ielif_fgd', dict(hook=dict(end=150))),
    'ielif_fgd, second half':
    ('ielif_fgd', dict(hook=dict(start=150))),
    'ielif_fgd, v alone': ('ielif_fgd', dict(
        fgd=dict(loss_weight=3., tensor_weights=dict(v=1.)))),
    'ielif_fgd, soft logits': ('ielif_fgd', dict(hook=dict(
        logit_loss=dict(type='mmqsdt.LogitDistillLoss', temperature=2.)))),
    'ielif, layer scale 0.1': ('ielif', SCALED),
    'ielif_fgd, layer scale 0.1': ('ielif_fgd', SCALED),
    'ielif, attention scale 1/32': ('ielif', SMALL),
    'ielif_fgd, attention scale 1/32': ('ielif_fgd', SMALL),
    'ielif, attention scale 1/32, layer scale 0.1':
    ('ielif', SCALED | SMALL),
    'ielif_fgd, attention scale 1/32, layer scale 0.1':
    ('ielif_fgd', SCALED | SMALL),
    'ielif, from the teacher': ('ielif', dict(from_teacher=True)),
    'ielif_fgd, from the teacher': ('ielif_fgd', dict(from_teacher=True)),
    'ann, 4 times longer': ('ann', LONG),
    'ielif, 4 times longer': ('ielif', LONG),
    'ielif_fgd, 4 times longer': ('ielif_fgd', LONG),
    'ielif_2bit, 4 times longer': ('ielif_2bit', LONG),
    'ielif_2bit_fgd, 4 times longer': ('ielif_2bit_fgd', LONG),
}


def trial_arm(name: str) -> Arm:
    """Build the network of an entry of TRIALS."""
    arm, changes = TRIALS[name]
    arm = replace(ARMS[arm], **changes)
    return replace(arm, cost=arm.cost * arm.longer)


def teacher_arm(arm: Arm) -> Arm:
    """Return the arm's teacher: its ANN counterpart, trained the same way."""
    ann = ARMS['ann']
    return replace(ann, longer=arm.longer, layer_scale=arm.layer_scale,
                   attention_scale=arm.attention_scale,
                   cost=ann.cost * arm.longer)


def trial_seeds(runs: dict[str, dict]) -> dict[str, dict[int, float]]:
    """Name of a trial -> seed -> accuracy, of what has been run."""
    names = dict.fromkeys(name.rpartition(', seed ')[0] for name in runs)
    return {name: accuracies(runs, name) for name in names}


@dataclass
class Comparison:
    """Two arms, paired by seed.

    Attributes:
        differences (list[float]): Accuracy of the first less that of the
            second, in points, for every seed that both have.
        t_test (float): p of the paired t-test, two-sided.
        signed_rank (float): p of Wilcoxon's exact signed-rank test,
            two-sided, equal pairs left out; over five seeds it is 0.0625 at
            best.
    """
    differences: list[float]
    t_test: float
    signed_rank: float


def accuracies(runs: dict[str, dict], arm: str) -> dict[int, float]:
    """Return the accuracy of an arm by seed, of runs that are done."""
    found = {}
    for name, run in runs.items():
        run_arm, _, seed = name.rpartition(', seed ')
        if run_arm == arm:
            found[int(seed)] = run['accuracy']
    return dict(sorted(found.items()))


def compare(runs: dict[str, dict], first: str,
            second: str) -> Comparison | None:
    """Compare two arms; None if fewer than two seeds have both.

    Args:
        runs (dict): '<arm>, seed <n>' -> dict with 'accuracy', in percent.
        first (str): Key of ARMS.
        second (str): Key of ARMS.
    """
    ours, theirs = accuracies(runs, first), accuracies(runs, second)
    seeds = [seed for seed in ours if seed in theirs]
    if len(seeds) < 2:
        return None
    x, y = [ours[s] for s in seeds], [theirs[s] for s in seeds]
    # Accuracies have three decimals; less is the rounding of a subtraction.
    differences = [round(a - b, 3) for a, b in zip(x, y)]
    return Comparison(differences, float(ttest_rel(x, y).pvalue),
                      _signed_rank(differences))


def _signed_rank(differences: list[float]) -> float:
    # wilcoxon(method='exact') is not exact where differences are tied.
    unequal = np.array([d for d in differences if d])
    if len(unequal) < 2:
        return 1.  # whatever its sign
    ranks = rankdata(abs(unequal))
    return float(
        permutation_test(
            (np.sign(unequal), ),
            lambda signs, axis: (signs * ranks).sum(axis),
            permutation_type='samples',
            n_resamples=np.inf).pvalue)


def ablation_tables(content: dict) -> str:
    """Make the tables of results, comparisons and trials, in Markdown.

    Args:
        content (dict): Of the json that tools/ablation.py writes.
    """
    runs = content['runs']
    lines = [
        '| | weight bits | T | seeds | accuracy, % | entropy of q, k, v, bits '
        '| bound, bits | firing rate | FGD distance |',
        '|---|---|---|---|---|---|---|---|---|'
    ]
    for name, arm in ARMS.items():
        found = accuracies(runs, name)
        mine = [runs[f'{name}, seed {seed}'] for seed in found]
        lines.append(_result_line(arm, list(found.values()), mine))
    lines += [
        '', '| difference, points | mean | by seed | paired t-test, p '
        '| signed-rank test, p |', '|---|---|---|---|---|'
    ]
    for first, second in COMPARISONS:
        found = compare(runs, first, second)
        if found:
            lines.append(_comparison_line(first, second, found))
    lines += ['', '| tried on validation images | accuracy, % | mean |',
              '|---|---|---|']
    lines += [
        f'| {name} | {", ".join(f"{x:.1f}" for x in found.values())} '
        f'| {mean(found.values()):.1f} |'
        for name, found in trial_seeds(content['trials']).items()
    ]
    return '\n'.join(lines) + '\n'


def _label(arm: Arm) -> str:
    bits = f'{arm.weight_bits}-bit ' if arm.weight_bits else ''
    return bits + arm.title


def _result_line(arm: Arm, found: list[float], runs: list[dict]) -> str:

    def over_seeds(key: str, digits: int) -> str:
        if not runs or runs[0][key]['q'] is None:
            return '-'
        return ', '.join(
            f'{mean(run[key][x] for run in runs):.{digits}f}' for x in 'qkv')

    accuracy = f'{mean(found):.1f}' if found else 'not run'
    if len(found) > 1:
        accuracy += f' ± {stdev(found):.1f}'
    bound = runs[0]['bound']['q'] if runs else None
    cells = (arm.title, arm.weight_bits or 'float', arm.time_steps,
             len(found), accuracy, over_seeds('entropy', 2),
             '-' if bound is None else f'{bound:.2f}',
             over_seeds('firing_rate', 2), over_seeds('fgd', 2))
    return f'| {" | ".join(map(str, cells))} |'


def _comparison_line(first: str, second: str, found: Comparison) -> str:
    by_seed = ', '.join(f'{d:+.1f}' for d in found.differences)
    return (f'| {_label(ARMS[first])} less {_label(ARMS[second])} '
            f'| {mean(found.differences):+.1f} | {by_seed} '
            f'| {found.t_test:.2g} | {found.signed_rank:.2g} |')
