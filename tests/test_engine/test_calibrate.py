"""An ANN counterpart becomes a spiking network."""

import math
from collections.abc import Callable

import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from shared import ARCH
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmqsdt.deploy import to_form
from mmqsdt.engine.calibrate import calibrate
from mmqsdt.layers import IELIF, ConvUnit, LSQLinear
from mmqsdt.models import QSDTransformer
from mmqsdt.models.counterpart import counterpart_model


def learned(levels: int = 4, **more) -> dict:
    return dict(type='mmqsdt.IELIF', threshold='learned', levels=levels,
                **more)


def trained(model: nn.Module, spread: float = 2.) -> nn.Module:
    """With norms and layer scales of their own, and statistics that fit.

    What is added to the residual stream is small, as training makes it: a
    deep network of random weights alone is chaotic.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            added = name.endswith(('sep_conv.norm', 'conv2.norm'))
            width = .2 if added else spread
            nn.init.uniform_(module.weight, .5 * width, 1.5 * width)
            nn.init.normal_(module.bias, std=.3 * width)
            module.momentum = None
    for name, parameter in model.named_parameters():
        if 'layer_scale' in name:
            nn.init.uniform_(parameter, .1, .3)
    ann = counterpart_model(model).train()
    with torch.no_grad():
        for _ in range(4):
            ann(images(8))
    found = ann.state_dict()
    model.load_state_dict({k: v for k, v in found.items()
                           if not k.endswith(('step_size', 'log_threshold'))},
                          strict=False)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = .1
    return model.eval()


def images(number: int = 4, side: int = 32) -> torch.Tensor:
    """Pictures with shapes in them; noise alone has no features."""
    coarse = torch.randn(number, 3, 4, 4)
    smooth = nn.functional.interpolate(coarse, size=side, mode='bilinear')
    return smooth + .2 * torch.randn(number, 3, side, side)


def backbone(bits: int | None = 4, levels: int = 4, **more) -> nn.Module:
    return trained(QSDTransformer(ARCH, weight_bits=bits,
                                  neuron=learned(levels), **more))


@torch.no_grad()
def error(model: nn.Module, ann: nn.Module, x: torch.Tensor) -> float:
    """Squared error of the features over their variance."""
    ours, wanted = model(x), ann(x)
    if isinstance(ours, tuple):
        ours, wanted = ours[-1], wanted[-1]
    return float((ours - wanted).square().mean() / wanted.var())


def chain(bits: int | None = 4, levels: int = 4) -> nn.Module:
    unit = learned(levels), bits
    return trained(nn.Sequential(
        ConvUnit(3, 16, 3, None, bits), ConvUnit(16, 16, 3, *unit),
        ConvUnit(16, 16, 3, *unit), ConvUnit(16, 16, 3, *unit)), spread=8.)


@pytest.mark.parametrize('method', ['error', 'percentile'])
@pytest.mark.parametrize('bits, levels', [(2, 4), (3, 4), (4, 4), (4, 15),
                                          (8, 8), (8, 15), (None, 8)])
def test_calibrated_outputs_are_the_anns(bits, levels, method):
    model = chain(bits, levels)
    ann, unseen = counterpart_model(model), images(8)
    before = error(model, ann, unseen)
    done = calibrate(model, [images(8), images(8)], method)
    # Weights of 2 bits have three values or four: little can be had.
    assert error(model, ann, unseen) < before * (1 if bits == 2 else .5)
    assert set(done.thresholds) == {
        k for k, m in model.named_modules() if isinstance(m, IELIF)}
    assert done.layers == (4 if bits else 0) and done.norms == 4
    assert not done.fixed and not done.idle


def test_more_bits_and_levels_come_closer():
    errors = []
    for bits, levels in ((2, 2), (4, 4), (8, 15), (8, 100)):
        torch.manual_seed(0)
        model = chain(bits, levels)
        ann = counterpart_model(model)
        calibrate(model, [images(8), images(8)])
        errors.append(error(model, ann, images(8)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < .01


@pytest.mark.parametrize('settings', [
    dict(), dict(bits=2), dict(levels=15), dict(time_steps=2),
    dict(time_steps=4), dict(inner_neurons=True)], ids=str)
def test_the_backbone_comes_closer(settings):
    model = backbone(**settings)
    ann, unseen = counterpart_model(model), images(8)
    before = error(model, ann, unseen)
    calibrate(model, [images(8) for _ in range(4)])
    assert error(model, ann, unseen) < before


def test_the_membrane_takes_part_in_the_fit():
    """At T = 2 what is left of the first step adds to the second."""
    x = torch.tensor([[1., 1., 1., .3], [0., 0., 0., .3]])

    def fitted(leak: float) -> float:
        neuron = IELIF(1, 'learned', time_steps=2, leak=leak)
        return next(iter(calibrate(
            nn.Sequential(neuron), [x]).thresholds.values()))

    assert fitted(0.) != fitted(1.)


@pytest.mark.parametrize('form', ['integer', 'fast', 'spikes'])
def test_every_form_of_a_calibrated_model_is_equal(form):
    model = backbone().double()
    calibrate(model, [images(8).double()])
    x = images(2).double()
    with torch.no_grad():
        torch.testing.assert_close(
            to_form(model, form)(x)[-1], model(x)[-1], rtol=1e-9, atol=1e-9)


def test_a_calibrated_model_is_saved_and_loaded():
    """Neither the steps nor the thresholds start again."""
    model = backbone()
    calibrate(model, [images(8)])
    again = QSDTransformer(ARCH, neuron=learned())
    again.load_state_dict(model.state_dict())
    x = images()
    for each in (model.train(), again.train()):
        each.zero_grad()
    torch.testing.assert_close(again(x)[-1], model(x)[-1], rtol=0, atol=0)
    ours, theirs = model.state_dict(), again.state_dict()
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], msg=name)


def test_steps_have_the_least_error():
    layer = LSQLinear(64, 8)
    model = nn.Sequential(IELIF(threshold='learned'), layer)
    nn.init.uniform_(layer.weight, -1, 1)

    def wrong() -> torch.Tensor:
        with torch.no_grad():
            return (layer.quantized_weight() - layer.weight).square().sum(1)

    before = wrong()
    calibrate(model, [torch.randn(16, 64)])
    assert (wrong() < before / 2).all()
    best, step = wrong(), layer.step_size.detach().clone()
    for share in (.8, .9, 1.1, 1.2):
        layer.set_step_size(step * share)
        assert (wrong() > best).all()


def test_a_channel_of_zeros_keeps_a_step():
    layer = LSQLinear(16, 4)
    layer.weight.data[1] = 0
    calibrate(nn.Sequential(IELIF(threshold='learned'), layer),
              [torch.randn(8, 16)])
    assert (layer.positive_step_size() > 0).all()
    assert (layer.quantized_weight()[1] == 0).all()


def test_the_threshold_has_the_least_error():
    neuron = IELIF(4, 'learned')
    x = torch.randn(1, 4096)
    calibrate(nn.Sequential(neuron), [x])
    found = neuron.threshold

    def wrong(threshold: float) -> float:
        neuron.threshold = threshold
        return float((neuron(x) - x.relu()).detach().square().sum())

    assert wrong(found) < min(wrong(found / 1.3), wrong(found * 1.3))


def test_a_percentile_gets_the_largest_count():
    neuron = IELIF(4, 'learned')
    x = torch.arange(-1000., 1001.).view(1, -1)
    calibrate(nn.Sequential(neuron), [x], 'percentile', 90.)
    assert neuron.threshold == pytest.approx(900 / 4, rel=.01)


def test_norms_have_the_mean_and_variance_of_the_anns():
    model = nn.Sequential(ConvUnit(3, 8, 3, learned(), 2),
                          ConvUnit(8, 8, 3, learned(), 2))
    model = trained(model)
    ann, x = counterpart_model(model), images(8)
    calibrate(model, [x])
    with torch.no_grad():
        ours, theirs = model(x), ann(x)
    dims = (0, 2, 3)
    torch.testing.assert_close(ours.mean(dims), theirs.mean(dims), rtol=0,
                               atol=1e-3)
    # Ratios are held near 1 by a hundredth of the ANN's variance.
    torch.testing.assert_close(ours.var(dims), theirs.var(dims), rtol=.02,
                               atol=0)


def test_outputs_without_a_norm_have_the_mean_of_the_anns():
    model = nn.Sequential(IELIF(2, 'learned'), LSQLinear(32, 8, bits=2))
    ann, x = counterpart_model(model), torch.randn(64, 32)
    calibrate(model, [x])
    torch.testing.assert_close(model(x).mean(0), ann(x).mean(0))


def test_a_layer_that_runs_often_is_matched_over_all_runs():
    """As heads on the levels of a pyramid."""

    class Levels(nn.Module):

        def __init__(self) -> None:
            super().__init__()
            self.neuron = IELIF(2, 'learned')
            self.fc = LSQLinear(16, 4, bits=2)

        def forward(self, x):
            return torch.cat([self.fc(self.neuron(each))
                              for each in (x, 2 + x[::2], x[:0])])

    model = Levels()
    ann, x = counterpart_model(model), torch.randn(64, 16)
    calibrate(model, [x])
    torch.testing.assert_close(model(x).mean(0), ann(x).mean(0), rtol=0,
                               atol=.1)  # the first run had less to go by


def test_what_does_not_run_is_named():
    model = backbone(out_indices=(1, ))
    done = calibrate(model, [images()])
    assert done.idle and all(
        name.startswith(('stages.2', 'stages.3', 'stages.4'))
        for name in done.idle)
    assert done.idle[0] in str(done)


def test_fixed_neurons_stay_and_are_named():
    model = nn.Sequential(IELIF(threshold='learned'), IELIF(threshold=.5))
    done = calibrate(model, [torch.randn(2, 8)])
    assert done.fixed == ['1'] and model[1].threshold == .5
    assert '1 neurons without' in str(done)


class Labeled(BaseModel):
    """A model as frameworks build them, with one layer too many."""

    def __init__(self) -> None:
        super().__init__(BaseDataPreprocessor())
        self.body = nn.Sequential(IELIF(threshold='learned'),
                                  nn.BatchNorm2d(3))
        self.modes: list[str] = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.modes.append(mode)
        return dict(loss=self.body(inputs).sum())


def test_models_of_the_frameworks_run_as_in_training():
    """With regions that a detector is trained on, but fixed statistics."""
    model = Labeled().train()
    calibrate(model, [dict(inputs=images(), data_samples=None)])
    assert model.modes == ['loss'] and model.training
    assert int(model.body[1].num_batches_tracked) == 0


def test_the_same_each_time():
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = backbone()
        torch.manual_seed(1)
        calibrate(model, [images(8)])
        found.append(model.state_dict())
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name]), name


Spoil = Callable[[nn.Module, list], None]


def no_batches(model: nn.Module, batches: list) -> None:
    batches.clear()


def not_finite(model: nn.Module, batches: list) -> None:
    batches[0][0] = math.nan


def silent(model: nn.Module, batches: list) -> None:
    norm = model.stages[1].downsample.norm
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, -1)


@pytest.mark.parametrize('spoil, words', [
    (no_batches, 'no batch of images'),
    (not_finite, r'stages\.\S+ reads values that are not finite'),
    (silent, r'stages\.1\.blocks\.0\S+ never fires'),
])
def test_bad_input(spoil: Spoil, words: str):
    model, batches = backbone(), [images()]
    spoil(model, batches)
    with pytest.raises(ValueError, match=words):
        calibrate(model, batches)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize('method, percentile', [
    ('best', 99.), ('percentile', 0.), ('percentile', 101.)])
def test_bad_arguments(method, percentile):
    with pytest.raises(ValueError, match='method must be one of'):
        calibrate(backbone(), [images()], method, percentile)


@pytest.mark.parametrize('neuron', [
    dict(type='mmqsdt.IELIF'), dict(type='mmqsdt.LIF'), dict(type='ReLU')])
def test_without_learned_thresholds_the_remedy_is_named(neuron):
    model = QSDTransformer(ARCH, neuron=neuron)
    with pytest.raises(ValueError, match='threshold="learned"'):
        calibrate(model, [images()])
