"""Compare the last scores of configs trained with several seeds."""

from pathlib import Path
from statistics import mean, stdev

from mmqsdt.measure.curves import read_run

# Score as mmengine logs it -> (heading, digits behind the point).
METRICS = {
    'accuracy/top1': ('top-1, %', 2),
    'coco/bbox_mAP': ('bbox mAP', 3),
    'coco/segm_mAP': ('segm mAP', 3),
    'mIoU': ('mIoU, %', 2),
}


def last_scores(work_dir: str | Path) -> dict[str, float]:
    """Return the scores of the last validation that a training logged.

    Args:
        work_dir (str | Path): Of the training; see :func:`read_run`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has logged none of METRICS.
    """
    known = read_run(work_dir).scores
    scores = {key: known[key].values[-1] for key in METRICS
              if key in known and known[key].values}
    if not scores:
        raise ValueError(f'{work_dir} has no log of a validation with any of '
                         f'{", ".join(METRICS)}')
    return scores


def seeds_table(runs: dict[str, dict[str, dict[str, float]]]) -> str:
    """Mean and standard deviation of each config, in Markdown.

    The differences are those to the first config, over the seeds that both
    have: their mean, and in brackets each by itself.

    Args:
        runs (dict): Name of a config -> seed -> scores, as of
            :func:`last_scores`. All have the same metrics.

    Raises:
        ValueError: If there are no runs, or their metrics differ.
    """
    scores = [run for by_seed in runs.values() for run in by_seed.values()]
    metrics = list(scores[0]) if scores else []
    if not metrics or any(set(run) != set(metrics) for run in scores):
        raise ValueError('configs to be compared must have been trained, '
                         f'with the same metrics; got {runs}')
    first = next(iter(runs))
    heads = [METRICS[key][0] for key in metrics]
    lines = [
        ' | '.join(['', 'config', 'seeds', *heads,
                    *(f'{head}: less the first' for head in heads), '']),
        '|' + '---|' * (2 + 2 * len(metrics))
    ]
    for name, by_seed in runs.items():
        cells = [f'`{name}`', str(len(by_seed))]
        cells += [_mean(by_seed, key) for key in metrics]
        cells += ['' if name == first else
                  _difference(by_seed, runs[first], key) for key in metrics]
        lines.append(' | '.join(['', *cells, '']))
    return '\n'.join(line.strip() for line in lines) + '\n'


def _mean(by_seed: dict, key: str) -> str:
    values = [scores[key] for scores in by_seed.values()]
    digits = METRICS[key][1]
    if not values:
        return 'not run'
    text = f'{mean(values):.{digits}f}'
    return f'{text} ± {stdev(values):.{digits}f}' if len(values) > 1 else text


def _difference(ours: dict, theirs: dict, key: str) -> str:
    digits = METRICS[key][1]
    each = [ours[seed][key] - theirs[seed][key] for seed in ours
            if seed in theirs]
    if not each:
        return ''
    return (f'{mean(each):+.{digits}f} '
            f'({", ".join(f"{x:+.{digits}f}" for x in each)})')
