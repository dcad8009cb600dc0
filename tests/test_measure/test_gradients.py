"""Networks that will train: gradients of the scale of the counterpart's."""

import json
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from test_configs import CONFIGS, build, load
from test_zoo import number_of_classes, random_data, shrink

from mmqsdt import QSDTransformer
from mmqsdt.layers import IELIF
from mmqsdt.measure.gradients import (
    SOUND_RATIO,
    GradientReport,
    NeuronState,
    compare_with_counterpart,
    find_faults,
    measure_gradients,
    print_gradients,
)
from mmqsdt.measure.gradients_plot import plot_gradients
from mmqsdt.models.backbones.qsd_transformer import ARCHS
from mmqsdt.models.counterpart import COUNTERPART, counterpart_config

LEARNED = dict(type='mmqsdt.IELIF', threshold='learned')
SMALL = dict(embed_dims=(16, 32, 64, 96), depths=(3, 1))
# Detectors and segmenters with learned thresholds. Those with the published
# neuron are not sound; two stand for them.
DENSE = [name for name in CONFIGS if re.match('(det|seg)/qsdt', name)
         and ('_digits' in name or '-learned' in name)
         and '-published' not in name and '-ann' not in name]
PUBLISHED = ['det/qsdt-published_maskrcnn_digits.py',
             'seg/qsdt-published_fpn_digits.py']


def stage_gradients(arch, size=64, **unit):
    """Norm of the gradient of each stage, of taps times fixed noise."""
    torch.manual_seed(0)
    model = QSDTransformer(
        arch, out_indices=range(5), **unit).train()
    x = torch.randn(4, 3, size, size)
    with torch.no_grad():
        shapes = [y.shape for y in model(x)]  # and thresholds start
    noise = [torch.randn(shape) for shape in shapes]
    sum((y * z).mean() for y, z in zip(model(x), noise)).backward()
    return [
        float(torch.cat([p.grad.flatten() for p in stage.parameters()]).norm())
        for stage in model.stages
    ]


def largest_ratio(one, other):
    return max(max(a / b, b / a) for a, b in zip(one, other))


@pytest.mark.parametrize('levels', [4, 8, 15])
def test_learned_thresholds_keep_the_scale_of_gradients(levels):
    ann = stage_gradients(SMALL, **COUNTERPART)
    learned = stage_gradients(SMALL, neuron=dict(LEARNED, levels=levels))
    assert largest_ratio(learned, ann) < SOUND_RATIO
    published = stage_gradients(SMALL)
    assert largest_ratio(published, ann) > 10  # what the tool is there for


@pytest.mark.parametrize('arch', ARCHS)
def test_every_arch_has_sound_gradients(arch):
    assert largest_ratio(
        stage_gradients(arch, size=32, neuron=LEARNED),
        stage_gradients(arch, size=32, **COUNTERPART)) < SOUND_RATIO


@pytest.fixture(scope='module')
def reports():
    """``reports(config)``: of the shrunken model, and of its counterpart.

    Where configs differ in sizes alone, one report stands for all.
    """
    known = {}

    def find(name):
        cfg = load(name)
        cfg.model = shrink(cfg.model)
        if 'pool_scales' in cfg.model.get('decode_head', {}):
            # Of two images pooled to 1x1 a batch norm sees two values: what
            # passes its gradient is chance.
            cfg.model.decode_head.pool_scales = (2, 3)
        key = json.dumps(cfg.model, default=str)
        if key not in known:
            with DefaultScope.overwrite_default_scope(cfg.default_scope):
                def start(config):
                    model = build(config, 'cpu')
                    model.init_weights()
                    return model

                torch.manual_seed(0)
                batch = random_data(cfg, number_of_classes(build(cfg)))
                known[key] = compare_with_counterpart(cfg, start, batch)
        return known[key]

    return find


@pytest.mark.parametrize('name', DENSE)
def test_whole_models_have_sound_gradients(name, reports):
    report, ann = reports(name)
    assert report.parts.keys() == ann.parts.keys()
    assert not find_faults(report, ann)
    assert report.neurons and not ann.neurons


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_neurons_are_found_at_fault(name, reports):
    faults = find_faults(*reports(name))
    assert any('stages.0: the gradient is' in f and 'explodes' in f
               for f in faults)


def test_faults_by_hand():
    sound = NeuronState(0.2, 0.5, 0.1)
    ann = GradientReport(parts={'stage 0': 1., 'neck': 1., 'head': 1.})
    report = GradientReport(
        parts={'stage 0': 3.5, 'neck': 0.25, 'head': 2.9},
        neurons=dict(a=sound, b=NeuronState(0., 1., 0.),
                     c=NeuronState(0.97, 0., 0.95)))
    faults = find_faults(report, ann)
    assert [f.split(':')[0] for f in faults] == ['stage 0', 'neck', 'b', 'c']
    assert '3.5 times' in faults[0] and '4.0 times smaller' in faults[1]
    assert not find_faults(ann, ann)


def test_measuring_changes_nothing_but_thresholds(reports):
    cfg = load('cls/qsdt_digits.py')
    cfg.model = shrink(cfg.model)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build(cfg, 'cpu')
        batch = random_data(cfg, 10)
        before = {k: v.clone() for k, v in model.state_dict().items()
                  if 'threshold' not in k}
        first = measure_gradients(model, batch)
        state = torch.get_rng_state()
        second = measure_gradients(model, batch)
    assert torch.equal(state, torch.get_rng_state())
    assert first.parts == second.parts and not model.training
    after = model.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert all(p.grad is None for p in model.parameters())


def test_the_state_of_a_neuron():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron = IELIF(threshold=1., amplitude=1.)

    from mmqsdt.measure.gradients import recorded_states
    model = Model()
    with recorded_states(model) as states:
        model.neuron(torch.tensor([[-1., 0., 1., 2., 4., 5., 9., 3.]]))
    assert states['neuron'] == NeuronState(18 / 8 / 4, 2 / 8, 3 / 8)


def test_pictures_and_table(reports, tmp_path, capsys):
    report, ann = reports('det/qsdt_maskrcnn_digits.py')
    files = plot_gradients(report, ann, 'it', tmp_path / 'gradients')
    assert all(file.stat().st_size > 5000 for file in files)
    print_gradients(report, ann)
    printed = capsys.readouterr().out
    assert all(part in printed for part in report.parts)


def test_the_counterpart_leaves_the_config_alone():
    cfg = Config(dict(model=dict(
        backbone=dict(type='mmqsdt.QSDTransformer', neuron=LEARNED),
        heads=[dict(type='mmqsdt.SpikeRPNHead'), dict(type='RPNHead')])))
    ann = counterpart_config(cfg)
    assert cfg.model.backbone.neuron == LEARNED
    assert ann.model.backbone.neuron == dict(type='ReLU')
    assert ann.model.heads[0].weight_bits is None
    assert 'neuron' not in ann.model.heads[1]
