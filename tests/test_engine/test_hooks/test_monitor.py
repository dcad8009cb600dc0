"""What the monitor logs is what the neurons did, and nothing else changes."""

import json
import logging
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

import mmqsdt
from mmqsdt import QSDTransformer
from mmqsdt.engine.hooks.monitor import Firing, SpikeMonitorHook, fetch

ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1), num_heads=2)


@MODELS.register_module(force=True)
class MonitoredClassifier(BaseModel):
    """A QSDTransformer and a linear head."""

    def __init__(self, **backbone) -> None:
        super().__init__()
        self.backbone = QSDTransformer(ARCH, **backbone)
        self.head = nn.Linear(16, 4)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.head(self.backbone(inputs)[-1].mean((2, 3)))
        if mode == 'loss':
            return dict(
                loss=nn.functional.cross_entropy(logits, data_samples))
        return logits if mode == 'tensor' else [logits]


class Images(torch.utils.data.Dataset):

    def __len__(self):
        return 16

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return dict(
            inputs=torch.rand(3, 32, 32, generator=generator),
            data_samples=i % 4)


LOADER = dict(
    batch_size=4,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False))
METRIC = dict(type='DumpResults', out_file_path='unused.pkl')


def make_runner(folder, hook: dict | None, iterations=4, model=None,
                hooks=(), validate=False, resume=False,
                backends=('LocalVisBackend', ), **optim) -> Runner:
    make_runner.count += 1
    name = f'monitor{make_runner.count}'
    more = {}
    if validate:
        more = dict(
            val_dataloader=dict(LOADER, dataset=Images()),
            val_cfg=dict(),
            val_evaluator=dict(METRIC, out_file_path=f'{folder}/results.pkl'))
    return Runner(
        model=dict(dict(type='MonitoredClassifier'), **model or {}),
        work_dir=str(folder),
        train_dataloader=dict(LOADER, dataset=Images()),
        train_cfg=dict(
            by_epoch=False, max_iters=iterations, val_interval=1),
        optim_wrapper=dict(
            dict(optimizer=dict(type='SGD', lr=0.1)), **optim),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(
                type='CheckpointHook', by_epoch=False, interval=2)),
        custom_hooks=[hook, *hooks] if hook else list(hooks),
        visualizer=dict(
            type='Visualizer', name=name,
            vis_backends=[dict(type=each) for each in backends]),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
        resume=resume,
        log_level='ERROR',
        experiment_name=name,
        **more)


make_runner.count = 0


def monitor(**kwargs) -> dict:
    return dict(dict(type='mmqsdt.SpikeMonitorHook', interval=2, window=1),
                **kwargs)


def reports(folder) -> list[dict]:
    """Lines of the json back end that the monitor wrote."""
    log, = Path(folder).glob('*/vis_data/scalars.json')
    lines = [json.loads(x) for x in log.read_text().splitlines()]
    return [x for x in lines if 'firing_rate/all' in x]


# --- what is counted --------------------------------------------------------


def test_firing_of_known_counts():
    neuron = mmqsdt.IELIF(levels=4, amplitude=0.1)  # not exact in binary
    counts = torch.tensor([[[0, 0], [4, 4], [1, 4]],
                           [[0, 0], [4, 4], [0, 2]]])  # (B, C, N)
    f = Firing.of(neuron, counts * 0.1)
    assert (f.dead, f.saturated, f.channels) == (1, 1, 3)
    assert f.rate == counts.double().mean() / 4
    awake = Firing.of(neuron, (counts + 1).clamp(max=4) * 0.1)
    both = f + awake
    assert (both.dead, both.saturated) == (0, 1)
    assert both.elements == 24
    for name, g in fetch(dict(a=f, b=both)).items():
        h = dict(a=f, b=both)[name]
        assert (g.rate, g.dead, g.saturated) == (h.rate, h.dead, h.saturated)


@pytest.mark.parametrize('neuron, time_steps', [
    (dict(type='mmqsdt.IELIF'), 1), (dict(type='mmqsdt.LIF'), 2)])
def test_reports_are_what_the_neurons_did(neuron, time_steps, tmp_path):
    """Of a window of two of three iterations, listened to by other hooks."""
    runner = make_runner(
        tmp_path, monitor(interval=3, window=2), 6,
        dict(neuron=neuron, time_steps=time_steps))
    levels = 1 if neuron['type'] == 'mmqsdt.LIF' else 4
    step = 1. if levels == 1 else 0.25
    path = 'backbone.stages.3.blocks.0.attn.q_neuron'
    layer = 'backbone.stages.1.blocks.0.conv1.conv'
    model = runner.model
    conv = model.get_submodule(layer)
    conv.settle_step_size()
    first = conv.step_size.detach().clone()
    seen, steps = [], []
    model.get_submodule(path).register_forward_hook(
        lambda m, a, out: seen.append((out.detach() / step).round()))

    class Steps(Hook):
        priority = 'VERY_LOW'

        def after_train_iter(self, *args, **kwargs):
            steps.append(conv.step_size.detach().clone())

    runner.register_hook(Steps())
    runner.train()
    found = reports(tmp_path)
    assert [x['step'] for x in found] == [3, 6]
    for i, report in enumerate(found):
        counts = torch.cat(seen[3 * i + 1:3 * i + 3])
        highest, lowest = counts.amax((0, 2, 3)), counts.amin((0, 2, 3))
        # float32 quotient of exact sums
        assert report[f'firing_rate/{path}'] == pytest.approx(
            float(counts.double().mean()) / levels, rel=1e-6)
        assert report[f'dead/{path}'] == float((highest == 0).float().mean())
        assert report[f'saturated/{path}'] == float(
            (lowest == levels).float().mean())
        assert report[f'step_drift/{layer}'] == pytest.approx(
            float((steps[3 * i + 2] / first - 1).abs().mean()), rel=1e-5)
    neurons = sum(x.endswith('neuron') for x in found[0]
                  if x.startswith('dead/'))
    assert neurons == len(mmqsdt.engine.hooks.monitor.spiking_neurons(model))
    assert found[1]['step_drift/all'] > 0
    assert 0 < found[1]['firing_rate/all'] < 1


def test_all_back_ends_get_the_figures(tmp_path, monkeypatch):
    """TensorBoard reads them back; WandB is a stub that keeps them."""
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )
    logged = []
    wandb = MagicMock(log=lambda scalars, **kwargs: logged.append(scalars))
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    make_runner(tmp_path, monitor(), 4, backends=(
        'LocalVisBackend', 'TensorboardVisBackend', 'WandbVisBackend'
    )).train()
    found = reports(tmp_path)
    folder, = tmp_path.glob('*/vis_data')
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [x['step'] for x in found] == [2, 4]
    for name in found[0].keys() - {'step'}:
        in_events = events.Scalars(name)
        assert [e.step for e in in_events] == [2, 4]
        # TensorBoard keeps float32
        assert [e.value for e in in_events] == pytest.approx(
            [x[name] for x in found], rel=1e-6)
        assert [x[name] for x in logged if name in x] == [
            x[name] for x in found]


def test_training_is_the_same_with_and_without(tmp_path):
    weights = []
    for hook in (None, monitor(), monitor(interval=3, window=3)):
        runner = make_runner(tmp_path / str(len(weights)), hook)
        runner.train()
        weights.append(runner.model.state_dict())
        assert not any(m._forward_hooks or m._forward_pre_hooks
                       for m in runner.model.modules())
    for other in weights[1:]:
        assert all(torch.equal(other[k], x) for k, x in weights[0].items())


def test_it_listens_in_the_window_only(tmp_path):
    hooks = []

    class Count(Hook):
        priority = 'VERY_LOW'

        def before_train_iter(self, runner, *args, **kwargs):
            hooks.append(any(m._forward_hooks
                             for m in runner.model.modules()))

    runner = make_runner(tmp_path, monitor(interval=5, window=2), 12)
    runner.register_hook(Count())
    runner.train()
    assert hooks == [False, False, False, True, True] * 2 + [False, False]
    assert [x['step'] for x in reports(tmp_path)] == [5, 10]


def test_recomputed_blocks_count_once(tmp_path):
    found = []
    for with_cp in (False, True):
        runner = make_runner(
            tmp_path / str(with_cp), monitor(window=2),
            model=dict(with_cp=with_cp))
        runner.train()
        found.append(reports(tmp_path / str(with_cp)))
    assert found[0] == found[1]


def test_validation_counts_for_nothing(tmp_path):
    found = []
    for validate in (False, True):
        runner = make_runner(
            tmp_path / str(validate), monitor(window=2), validate=validate)
        if validate:  # what would be seen if it counted
            runner.model.backbone.stages[0].blocks[0].conv1.neuron \
                .register_forward_hook(
                    lambda m, a, out: None if m.training else out * 0 + 99)
        runner.train()
        found.append(reports(tmp_path / str(validate)))
    assert found[0] == found[1]


@pytest.mark.parametrize('kwargs', [
    dict(type='mmqsdt.BFloat16OptimWrapper'),
    dict(type='OptimWrapper', accumulative_counts=2)])
def test_mixed_precision_accumulation_and_ema(kwargs, tmp_path):
    runner = make_runner(
        tmp_path, monitor(), hooks=[dict(type='EMAHook')], **kwargs)
    runner.train()
    found = reports(tmp_path)
    assert len(found) == 2
    assert all(0 <= x <= 1 for report in found for k, x in report.items()
               if k.startswith(('firing_rate', 'dead', 'saturated')))
    names = [k for k in found[0] if k.startswith('firing_rate/')]
    assert not any('ema' in k or 'module' in k for k in names)


def test_two_processes_are_taken_together(tmp_path, monkeypatch):
    """Another process saw other channels fire, and a layer that we did not."""
    neuron = mmqsdt.IELIF()
    ours = Firing.of(neuron, torch.tensor([[[1., 0.]], [[0., 0.]]]).mT)
    theirs = Firing.of(neuron, torch.tensor([[[0., 1.]]]).mT)
    monkeypatch.setattr(
        mmqsdt.engine.hooks.monitor, 'all_gather_object',
        lambda found: [found, dict(a=theirs, b=theirs)])
    hook = SpikeMonitorHook()
    hook.neurons = dict(b=neuron, a=neuron)
    hook._firing = dict(a=ours)
    found = hook._gather()
    assert list(found) == ['b', 'a']
    assert (found['a'].dead, found['b'].dead) == (0, 1)
    assert found['a'].elements == 6 and float(found['a'].spikes) == 8


# --- warnings ---------------------------------------------------------------


class Logged(logging.Handler):

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record) -> None:
        self.lines.append((record.levelname, record.getMessage()))


def test_a_layer_that_dies_and_comes_back_is_named_once(tmp_path):
    name = 'backbone.stages.1.blocks.0.conv1'

    class Kill(Hook):
        """No potential reaches the threshold in iterations 2 to 5."""

        def before_train_iter(self, runner, *args, **kwargs):
            runner.model.get_submodule(name).neuron.threshold = \
                1e6 if 2 <= runner.iter < 6 else 0.25

    runner = make_runner(tmp_path, monitor(), 10)
    runner.register_hook(Kill())
    logged = Logged()
    logger = MMLogger.get_current_instance()
    logger.setLevel(logging.INFO)
    logger.addHandler(logged)
    runner.train()
    lines = [x for x in logged.lines if 'silent' in x[1] or 'again' in x[1]]
    assert [level for level, _ in lines] == ['WARNING', 'INFO']
    assert lines[0][1].startswith(
        f'iteration 4: silent in the last 1 iterations: {name}.neuron. ')
    assert 'learning rate' in lines[0][1]
    assert lines[1][1] == f'iteration 8: fires again: {name}.neuron'
    assert [x[f'dead/{name}.neuron'] == 1 for x in reports(tmp_path)] == [
        False, True, True, False, False]


def test_a_resumed_training_measures_drift_from_its_first_start(tmp_path):
    whole = make_runner(tmp_path / 'whole', monitor())
    whole.train()
    make_runner(tmp_path / 'parts', monitor(), 2).train()
    resumed = make_runner(tmp_path / 'parts', monitor(), resume=True)
    resumed.train()
    logs = sorted((tmp_path / 'parts').glob('*/vis_data/scalars.json'))
    lines = [json.loads(x) for x in logs[-1].read_text().splitlines()]
    last = [x for x in lines if 'step_drift/all' in x][-1]
    expected = reports(tmp_path / 'whole')[-1]
    assert last['step'] == 4
    assert last['step_drift/all'] > 0
    first = whole.message_hub.get_info('spike_monitor_first_steps')
    assert resumed.message_hub.get_info('spike_monitor_first_steps') == first
    # the order of the images differs after resumption; the start does not
    assert last.keys() == expected.keys()


# --- refused ----------------------------------------------------------------


@pytest.mark.parametrize('kwargs', [
    dict(interval=0), dict(interval=10, window=11), dict(window=0),
    dict(interval=2.5), dict(window=True), dict(interval='10')])
def test_bad_arguments_are_refused(kwargs):
    with pytest.raises(ValueError, match='1 <= window <= interval'):
        SpikeMonitorHook(**kwargs)


def test_a_network_without_spikes_is_refused(tmp_path):
    runner = make_runner(tmp_path, monitor(), model=dict(
        weight_bits=None, neuron=dict(type='ReLU')))
    with pytest.raises(ValueError, match='not a spiking model.*custom_hooks'):
        runner.train()


def test_names():
    assert mmqsdt.SpikeMonitorHook is SpikeMonitorHook
    hook = mmqsdt.registry.MMENGINE_HOOKS.build(
        dict(type='mmqsdt.SpikeMonitorHook'))
    assert (hook.interval, hook.window) == (100, 5)


@pytest.mark.parametrize('accumulated', [1, 2])
def test_gradient_norms_are_those_before_clipping(accumulated, tmp_path,
                                                  monkeypatch):
    runner = make_runner(
        tmp_path, monitor(interval=2, window=1), 4,
        accumulative_counts=accumulated, clip_grad=dict(max_norm=1e-3))
    seen = []
    step = OptimWrapper.step

    def noted(wrapper, **kwargs):
        seen.append({n: p.grad.clone()
                     for n, p in runner.model.named_parameters()})
        step(wrapper, **kwargs)

    monkeypatch.setattr(OptimWrapper, 'step', noted)
    runner.train()
    # A report every second iteration: of the step that ended it.
    for report, grads in zip(reports(tmp_path), seen[2 // accumulated - 1::
                                               2 // accumulated], strict=True):
        for part in ('backbone.stages.0', 'backbone.stages.4', 'head'):
            expected = torch.cat([g.flatten() for n, g in grads.items()
                                  if n.startswith(f'{part}.')]).norm()
            assert report[f'gradient_norm/{part}'] == pytest.approx(
                float(expected), rel=1e-4)


def said(monkeypatch) -> list[str]:
    lines = []
    monkeypatch.setattr(mmqsdt.engine.hooks.monitor, 'print_log',
                        lambda message, *args, **kwargs: lines.append(message))
    return lines


def test_exploding_gradients_are_named_once(tmp_path, monkeypatch):
    lines = said(monkeypatch)
    monkeypatch.setattr(mmqsdt.engine.hooks.monitor, 'EXPLODED', 1e-6)
    make_runner(tmp_path, monitor(interval=1, window=1), 3).train()
    assert sum('the gradient grows' in line for line in lines) == 1


def test_sound_gradients_are_no_news(tmp_path, monkeypatch):
    lines = said(monkeypatch)
    neuron = dict(type='mmqsdt.IELIF', threshold='learned')
    make_runner(tmp_path, monitor(interval=1, window=1), 2,
                dict(neuron=neuron)).train()
    assert not any('the gradient grows' in line for line in lines)


class Scaled(OptimWrapper):
    """Loses a step to a scale that is too large, as a scaler may."""

    loss_scaler = MagicMock(get_scale=lambda: 4.)

    def update_params(self, loss, *args, **kwargs) -> None:
        super().update_params(loss * torch.inf)


def test_a_step_that_a_scaler_leaves_out_is_no_news(tmp_path, monkeypatch):
    lines = said(monkeypatch)
    monkeypatch.setattr(mmqsdt.engine.hooks.monitor, 'EXPLODED', 1e-6)
    runner = make_runner(tmp_path, monitor(interval=1, window=1), 1)
    runner.optim_wrapper = Scaled(torch.optim.SGD(
        runner.model.parameters(), lr=0.))
    runner.train()
    assert not any('the gradient grows' in line for line in lines)
    assert not any('gradient_norm' in key for key in reports(tmp_path)[0])


def test_saturated_layers_are_named_once(tmp_path, monkeypatch):
    lines = said(monkeypatch)
    runner = make_runner(tmp_path, monitor(interval=1, window=1), 3)
    neuron = runner.model.get_submodule(
        'backbone.stages.3.blocks.0.attn.attn_neuron')
    neuron.register_forward_pre_hook(lambda m, args: (args[0] + 100, ))
    runner.train()
    full = [line for line in lines if 'saturated, at' in line]
    assert len(full) == 1 and 'attn_neuron' in full[0]
