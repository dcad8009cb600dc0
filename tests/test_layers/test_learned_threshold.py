"""A threshold that is learned: its start, its gradient, its checkpoints."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from mmqsdt.layers import IELIF, build_neuron


def respond(module, x, upstream):
    """Output of a neuron, and the gradient of its input."""
    x = x.clone().requires_grad_()
    out = module(x)
    out.backward(upstream)
    return out.detach(), x.grad


def learned(**arguments):
    """A learned threshold that has started, in float64."""
    module = IELIF(threshold='learned', **arguments).double()
    module._started = True
    return module


@pytest.mark.parametrize('levels', [1, 4, 8, 15, 126])
def test_a_learned_threshold_starts_from_the_first_batch(levels):
    module = IELIF(levels, threshold='learned')
    x = torch.randn(4, 3, 8, 8)
    default = 2 * math.sqrt(2 / math.pi / levels)
    assert module.threshold == pytest.approx(default)
    module.eval()(x)
    assert module.threshold == pytest.approx(default)  # not in evaluation
    module.train()(3 * x)
    expected = 2 * float((3 * x).abs().mean()) / math.sqrt(levels)
    assert module.threshold == pytest.approx(expected)
    module(x)  # and only once
    assert module.threshold == pytest.approx(expected)


@pytest.mark.parametrize('nothing', [
    torch.zeros(0, 3), torch.zeros(4, 3), torch.full((4, 3), torch.inf)
])
def test_a_batch_of_nothing_starts_no_threshold(nothing):
    module = IELIF(threshold='learned')
    default = module.threshold
    module(nothing)
    assert module.threshold == default
    module(torch.full((4, 3), 5.))
    assert module.threshold == pytest.approx(5.)


@pytest.mark.parametrize('rounding', ['half_up', 'half_even'])
@pytest.mark.parametrize('time_steps', [1, 2])
@pytest.mark.parametrize('amplitude', [None, 0.25])
def test_a_learned_threshold_fires_as_a_fixed_one(rounding, time_steps,
                                                  amplitude):
    module = learned(
        rounding=rounding, time_steps=time_steps, amplitude=amplitude)
    with torch.no_grad():
        module.log_threshold.fill_(math.log(0.7))
    fixed = IELIF(
        threshold=module.threshold,
        amplitude=amplitude or module.threshold,
        rounding=rounding,
        time_steps=time_steps)
    x = torch.randn(4, 50, dtype=torch.float64)
    upstream = torch.randn_like(x)
    out, grad = respond(module, x, upstream)
    expected, expected_grad = respond(fixed, x, upstream)
    assert torch.equal(out, expected)
    # The same products in another order.
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=0)
    assert module.amplitude == fixed.amplitude


@pytest.mark.parametrize('levels', [1, 4, 8, 15, 126])
@pytest.mark.parametrize('amplitude', [None, 0.5])
def test_gradient_of_a_learned_threshold(levels, amplitude):
    """Equal to that of a * clamp(u, 0, D) straight through the rounding."""
    module = learned(levels=levels, amplitude=amplitude)
    x = torch.randn(3, 4000, dtype=torch.float64) * 2 * module.threshold \
        * levels**0.5
    upstream = torch.randn_like(x)
    _, grad = respond(module, x, upstream)

    log = module.log_threshold.detach().clone().requires_grad_()
    theta = log.exp()
    u = x / theta
    clamped = u.clamp(0, levels)
    count = clamped + (clamped.round() - clamped).detach()
    out = count * (theta if amplitude is None else amplitude)
    out.backward(upstream)
    expected = log.grad / math.sqrt(4000 * levels)
    # u is kept in bins: each is wrong by up to half a bin, at random.
    noise = float((upstream.square().sum())**0.5) * (
        amplitude or float(theta)) / (252 // levels) / math.sqrt(12)
    assert abs(float(module.log_threshold.grad - expected)) < \
        4 * noise / math.sqrt(4000 * levels)
    inside = (x > 0) & (x < levels * float(theta))
    slope = (amplitude or float(theta)) / float(theta)
    torch.testing.assert_close(
        grad, upstream * inside * slope, rtol=1e-12, atol=0)


def test_a_learned_threshold_reduces_the_error_of_quantization():
    """With its amplitude tied, S approximates max(H, 0) ever better."""
    torch.manual_seed(0)
    module = IELIF(threshold='learned')
    module._started = True
    with torch.no_grad():
        module.log_threshold.fill_(math.log(0.1))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    x = torch.randn(64, 200)
    errors = []
    for _ in range(60):
        loss = (module(x) - x.relu()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss))
    assert errors[-1] < errors[0] / 10
    assert 0.4 < module.threshold < 0.8


def test_a_learned_threshold_is_positive_whatever_is_learned():
    module = IELIF(threshold='learned')
    module(torch.randn(8, 5))
    with torch.no_grad():
        module.log_threshold.sub_(5)
    assert 0 < module.threshold < 0.01


@pytest.mark.parametrize('duplicate', [
    copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))
])
def test_a_copy_of_a_learned_threshold_does_not_start_again(duplicate):
    module = IELIF(threshold='learned')
    module(torch.full((4, 3), 5.))
    other = duplicate(module)
    other(torch.ones(4, 3))
    assert other.threshold == module.threshold
    other = IELIF(threshold='learned')
    other.load_state_dict(module.state_dict())
    other(torch.ones(4, 3))
    assert other.threshold == module.threshold


@pytest.mark.parametrize('started', [False, True])
def test_a_checkpoint_says_whether_a_threshold_has_started(started, tmp_path):
    """A head that no region reached starts when one does."""
    module = nn.Sequential(IELIF(threshold='learned'))
    if started:
        module(torch.full((4, 3), 5.))
    torch.save(module.state_dict(), tmp_path / 'x.pth')
    other = nn.Sequential(IELIF(threshold='learned'))
    other.load_state_dict(torch.load(tmp_path / 'x.pth'))
    other(torch.ones(4, 3))
    assert other[0].threshold == pytest.approx(5. if started else 1.)


def test_a_checkpoint_without_a_word_has_started():
    """Those of before, and plain dicts."""
    module = IELIF(threshold='learned')
    module.load_state_dict({'log_threshold': torch.zeros(1)})
    module(torch.full((4, 3), 5.))
    assert module.threshold == 1.


def test_a_checkpoint_of_the_other_kind_of_threshold_is_refused():
    fixed, trained = IELIF(), IELIF(threshold='learned')
    with pytest.raises(RuntimeError, match="set threshold='learned'"):
        fixed.load_state_dict(trained.state_dict(), strict=False)
    with pytest.raises(RuntimeError, match='Missing key.*log_threshold'):
        trained.load_state_dict(fixed.state_dict())
    damaged = {'log_threshold': torch.tensor([float('nan')])}
    with pytest.raises(RuntimeError, match='log_threshold must be finite'):
        trained.load_state_dict(damaged)


@pytest.mark.parametrize('arguments', [
    dict(threshold='learnt'),
    dict(threshold='learned', closed_window=True),
    dict(threshold='learned', levels=127),
])
def test_what_a_learned_threshold_cannot_do_is_refused(arguments):
    with pytest.raises(ValueError, match='threshold'):
        IELIF(**arguments)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_learned_threshold_keeps_half_precision(dtype):
    module = IELIF(threshold='learned')
    x = torch.randn(4, 30).to(dtype)
    out, grad = respond(module, x, torch.ones_like(x))
    assert out.dtype == grad.dtype == dtype
    assert module.log_threshold.grad.dtype == torch.float32
    assert module.log_threshold.grad.isfinite().all()


@pytest.mark.parametrize('name', ['mmqsdt.LIF', 'ReLU'])
def test_another_type_over_a_learned_threshold(name):
    """As --cfg-options model.backbone.neuron.type=... leaves it."""
    cfg = dict(type=name, threshold='learned')
    assert type(build_neuron(cfg)).__name__ == name.split('.')[-1]
    assert cfg['threshold'] == 'learned'


def test_sums_over_large_maps_in_half_precision():
    module = IELIF(threshold='learned')
    # Many currents above the window: inside it the terms are rounding errors
    # of both signs, whose sum a half-precision current's own rounding decides.
    torch.manual_seed(0)
    x = torch.randn(2, 300_000)
    module(x / 4)
    grads = []
    for dtype in (torch.float32, torch.float16):
        module.zero_grad()
        respond(module, x.to(dtype), torch.ones_like(x).to(dtype))
        grads.append(float(module.log_threshold.grad))
    assert grads[1] == pytest.approx(grads[0], rel=1e-3)


def test_zero_is_outside_the_window():
    _, grad = respond(learned(), torch.zeros(3, dtype=torch.float64),
                      torch.ones(3, dtype=torch.float64))
    assert not grad.any()
