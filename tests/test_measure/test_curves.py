"""Curves are what mmengine logged, across interruptions."""

import json
from math import nan
from pathlib import Path

import pytest

from mmqsdt.measure.curves import (
    Curve,
    Run,
    choose_keys,
    read_run,
    smooth,
)
from mmqsdt.measure.curves_plot import apart, plot_curves


def write(work_dir: Path, time: str, lines: list) -> None:
    log = work_dir / time / 'vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('\n'.join(
        x if isinstance(x, str) else json.dumps(x) for x in lines))


def train(iteration: int, loss: float, epoch: int | None = None) -> dict:
    line = dict(lr=0.1, loss=loss, iter=iteration, step=iteration)
    return line if epoch is None else dict(line, epoch=epoch)


def test_a_training_by_epoch(tmp_path):
    write(tmp_path, '1', [
        train(10, 3., 1), {'mIoU': 20., 'step': 1}, train(20, 2., 2),
        train(30, nan, 3), {'mIoU': 30., 'note': 'x', 'step': 2},
        {'firing_rate/all': 0.2, 'firing_rate/neck': 0.1, 'step': 35},
        '{"loss": 1., "it'])
    run = read_run(tmp_path)
    assert run.training['loss'] == Curve([10, 20], [None, None], [3., 2.])
    assert run.scores == dict(mIoU=Curve([10, 30], [1, 2], [20., 30.]))
    assert run.training['firing_rate/neck'].iterations == [35]
    assert set(run.training) == {'lr', 'loss', 'firing_rate/all',
                                 'firing_rate/neck'}


def test_a_training_by_iteration(tmp_path):
    write(tmp_path, '1', [train(10, 3.), {'mIoU': 20., 'step': 10}])
    assert read_run(tmp_path).scores['mIoU'] == Curve([10], [None], [20.])


def test_a_resumed_training_is_one(tmp_path):
    write(tmp_path, '1', [train(10, 3.), {'mIoU': 20., 'step': 10},
                          train(20, 9.), {'mIoU': 90., 'step': 20}])
    write(tmp_path, '2', [train(20, 2.), {'mIoU': 21., 'step': 20}])
    (tmp_path / '3/vis_data').mkdir(parents=True)  # a test run logs nothing
    (tmp_path / '3/vis_data/scalars.json').touch()
    run = read_run(tmp_path)
    assert run.training['loss'].values == [3., 2.]
    assert run.scores['mIoU'].values == [20., 21.]
    # started anew: the first one is forgotten
    write(tmp_path, '4', [train(10, 1.)])
    run = read_run(tmp_path)
    assert run.training['loss'].values == [1.] and not run.scores


def test_only_the_last_validation_was_repeated(tmp_path):
    """Resumed at its end, a training logs a score and no iteration."""
    score = {'mIoU': 20., 'step': 1}
    write(tmp_path, '1', [train(10, 3., 1), score, train(20, 2., 2),
                          {'mIoU': 30., 'step': 2}])
    once = read_run(tmp_path)
    write(tmp_path, '2', [{'mIoU': 30., 'step': 2}])
    assert read_run(tmp_path) == once
    assert once.training['loss'].values == [3., 2.]


def test_missing_logs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no work dir at .*/none'):
        read_run(tmp_path / 'none')
    with pytest.raises(ValueError, match='no log of a training'):
        read_run(tmp_path)


@pytest.mark.parametrize('weight', [0., 0.5, 0.99])
def test_smoothing(weight):
    values = [3., -1., 4., 1., 5., 9.]
    expected = []
    for i in range(len(values)):
        weights = [weight**abs(i - j) for j in range(len(values))]
        expected.append(
            sum(w * x for w, x in zip(weights, values)) / sum(weights))
    assert smooth(values, weight) == pytest.approx(expected, rel=1e-9)
    assert smooth([2.] * 5, weight) == pytest.approx([2.] * 5, rel=1e-12)
    assert smooth([], weight) == []


@pytest.mark.parametrize('weight', [-0.1, 1., 2.])
def test_bad_smoothing_is_refused(weight):
    with pytest.raises(ValueError, match=r'in \[0, 1\)'):
        smooth([1.], weight)


@pytest.fixture
def runs(tmp_path) -> dict:
    write(tmp_path / 'a', '1', [
        dict(train(i, 1 / i, i // 10), loss_cls=0.1) for i in range(1, 60)
    ] + [{'accuracy/top1': 90., 'accuracy/top5': 99., 'step': 5}])
    write(tmp_path / 'b', '1', [train(i, 2 / i, i // 10)
                                for i in range(1, 40)])
    return {x: read_run(tmp_path / x) for x in 'ab'}


def test_keys_are_chosen(runs):
    assert choose_keys(runs) == ['loss', 'loss_cls', 'accuracy/top1']
    assert choose_keys(runs, ['accuracy/*', 'l*']) == [
        'accuracy/top1', 'accuracy/top5', 'lr', 'loss', 'loss_cls']
    with pytest.raises(ValueError, match="called 'x' was logged; there are"):
        choose_keys(runs, ['loss', 'x'])
    runs['a'].training = runs['b'].training = {}
    runs['a'].scores = dict(other=Curve())
    with pytest.raises(ValueError, match='name what to draw: other'):
        choose_keys(runs)


def test_labels_stand_apart():
    assert apart([5., 1., 9.], 2.) == [5., 1., 9.]
    assert apart([5., 4.], 2.) == [5.5, 3.5]
    places = apart([1., 1.1, 5., 1.05, 0.9], 1.)
    gaps = [b - a for a, b in zip(sorted(places), sorted(places)[1:])]
    assert min(gaps) > 0.9  # steps that halve what is missing
    assert places[2] == 5.
    assert places[4] < places[0] < places[3] < places[1]
    assert apart([], 1.) == []


@pytest.mark.parametrize('smoothing', [None, 0.5])
def test_picture(runs, smoothing, tmp_path, monkeypatch):
    figures = []
    import mmqsdt.measure.curves_plot as module
    save = module.save_picture
    monkeypatch.setattr(
        module, 'save_picture',
        lambda figure, stem: figures.append(figure) or save(figure, stem))
    keys = choose_keys(runs)
    files = plot_curves(runs, keys, smoothing, tmp_path / 'curves')
    assert [f.suffix for f in files] == ['.png', '.svg']
    panels = figures[0].axes
    assert [axes.get_title(loc='left') for axes in panels] == keys
    raw, smoothed, other, _ = panels[0].lines
    loss = runs['a'].training['loss']
    assert raw.get_ydata().tolist() == loss.values
    assert smoothed.get_ydata().tolist() == smooth(
        loss.values, smoothing or 1 - 20 / len(loss.values))
    assert other.get_ydata().tolist() == runs['b'].training['loss'].values
    assert panels[2].lines[0].get_xdata().tolist() == [5]
    assert panels[2].get_xlabel() == 'epoch'
    assert [x.get_text() for x in figures[0].legends[0].texts] == ['a', 'b']


def test_scores_that_hardly_differ_stand_close(tmp_path, monkeypatch):
    runs = {name: Run(scores=dict(mIoU=Curve([10], [1], [score])))
            for name, score in (('a', 57.), ('b', 57.2))}
    figures = []
    monkeypatch.setattr('mmqsdt.measure.curves_plot.save_picture',
                        lambda figure, stem: figures.append(figure))
    plot_curves(runs, ['mIoU'], None, tmp_path / 'curves')
    low, high = figures[0].axes[0].get_ylim()
    assert low < 57 and high > 57.2
    assert 0.2 / (high - low) < 0.02  # of the height of the panel
