import copy
import io
import pickle

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from torch.nn import functional as F

from mmqsdt.layers import (
    LSQConv2d,
    LSQLinear,
    settle_step_sizes,
)

# Golden name -> our layer; 1x1 convs over tokens are 2-D ones here.
LAYERS = {
    'conv2d': lambda: LSQConv2d(6, 10, 3, stride=2, padding=1),
    'conv2d_dw':
    lambda: LSQConv2d(8, 8, 7, padding=3, groups=8, bias=False),
    'conv2d_1x1': lambda: LSQConv2d(8, 12, 1, bias=False),
    'conv1d': lambda: LSQConv2d(8, 12, 1),
    'linear': lambda: LSQLinear(16, 10),
    'init_conv2d': lambda: LSQConv2d(5, 7, 3, padding=1, bias=False),
    'init_conv1d': lambda: LSQConv2d(5, 7, 1, bias=False),
    'init_linear': lambda: LSQLinear(5, 7, bias=False),
}
BOTH = pytest.mark.parametrize('make', [
    lambda **kwargs: LSQConv2d(6, 5, 3, **kwargs),
    lambda **kwargs: LSQLinear(24, 5, **kwargs),
], ids=['conv', 'linear'])
BITS = (2, 3, 4, 8)


def load_layer(name, golden):
    """Our layer with the golden weights, and the golden vectors."""
    vectors = golden('units', f'{name}/')
    if name.endswith('conv1d'):
        vectors = {
            key: value.unsqueeze(-1) if value.dim() == 3 else value
            for key, value in vectors.items()
        }
    layer = LAYERS[name]()
    state = {k: v for k, v in vectors.items() if k in ('weight', 'bias')}
    if 'alpha' in vectors:
        state['step_size'] = vectors['alpha']
    layer.load_state_dict(state)
    return layer, vectors


def per_channel(step, weight):
    return step.view(-1, *[1] * (weight.dim() - 1))


def float_state(layer):
    """Float weights of the layer's shape, without a step size."""
    return {
        'weight': 3 * torch.randn_like(layer.weight),
        'bias': torch.randn_like(layer.bias)
    }


def sample(layer):
    """Something it can read."""
    return torch.randn(
        (2, 6, 4, 4) if isinstance(layer, LSQConv2d) else (2, 24))


# ------------------------------------------------------ the published layers


@pytest.mark.parametrize('name', [n for n in LAYERS if n[:4] != 'init'])
def test_codes_equal_those_of_the_published_layer(golden, name):
    layer, vectors = load_layer(name, golden)
    step = per_channel(vectors['alpha'], vectors['weight'])
    codes = (vectors['w_q'] / step).round()
    assert torch.equal(layer.integer_weight(), codes.to(torch.int8))
    # The published gradient scaling (x - xg + xg) rounds some steps anew:
    # one unit in the last place.
    torch.testing.assert_close(
        layer.quantized_weight(), vectors['w_q'], rtol=3e-7, atol=0)


@pytest.mark.parametrize('name', [n for n in LAYERS if n[:4] != 'init'])
def test_golden_weights_hold_ties_and_both_saturations(golden, name):
    # Without them neither the codes nor the gradients would be put to test.
    _, vectors = load_layer(name, golden)
    ratio = vectors['weight'] / per_channel(vectors['alpha'],
                                            vectors['weight'])
    assert (ratio < -8).any() and (ratio > 7).any()
    assert ((ratio % 1 == 0.5) & (ratio > -8) & (ratio < 7)).any()


@pytest.mark.parametrize('name', [n for n in LAYERS if n[:4] != 'init'])
def test_output_and_gradients_equal_the_published_layer(golden, name):
    layer, vectors = load_layer(name, golden)
    x = vectors['x'].requires_grad_()
    out = layer(x)
    out.backward(vectors['upstream'])
    # Sums of up to 54 products, in another order: float32 rounding.
    close = dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out, vectors['out'], **close)
    torch.testing.assert_close(x.grad, vectors['grad_x'], **close)
    torch.testing.assert_close(layer.weight.grad, vectors['grad_weight'],
                               **close)
    torch.testing.assert_close(layer.step_size.grad, vectors['grad_alpha'],
                               **close)
    if 'bias' in vectors:
        torch.testing.assert_close(layer.bias.grad, vectors['grad_bias'],
                                   **close)
    # The window of the weights' gradient is the same, element by element.
    assert torch.equal(layer.weight.grad == 0, vectors['grad_weight'] == 0)


@pytest.mark.parametrize('name', [n for n in LAYERS if n[:4] == 'init'])
def test_first_step_size_equals_the_published_one(golden, name):
    layer, vectors = load_layer(name, golden)
    # A mean summed in another order: the last place may differ.
    torch.testing.assert_close(
        layer.step_size.detach(), vectors['alpha_after'], rtol=3e-7, atol=0)
    torch.testing.assert_close(
        layer(vectors['x']), vectors['out'], rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------- the formula


@BOTH
@pytest.mark.parametrize('bits', BITS)
def test_weights_lie_on_the_grid_of_their_bits(make, bits):
    layer = make(bits=bits)
    with torch.no_grad():
        layer.step_size.mul_(0.5 + torch.rand(5))
        layer.weight.mul_(30)  # out of range on both sides
    codes = layer.integer_weight()
    assert codes.dtype == torch.int8
    assert codes.min() == -2**(bits - 1) and codes.max() == 2**(bits - 1) - 1
    step = per_channel(layer.step_size, layer.weight)
    assert torch.equal(layer.quantized_weight(), codes * step)
    x = sample(layer)
    reference = F.conv2d if isinstance(layer, LSQConv2d) else F.linear
    assert torch.equal(layer(x), reference(x, codes * step, layer.bias))


@pytest.mark.parametrize('bits', BITS)
def test_gradients_follow_the_formula(bits):
    low, high = -2**(bits - 1), 2**(bits - 1) - 1
    # Ratios w/s: below, at and inside both bounds, ties, and above.
    ratio = torch.tensor(
        [low - 1., low, low + 0.25, -0.5, 0., 0.5, high - 0.25, high,
         high + 1.])
    layer = LSQLinear(9, 2, bits=bits, bias=False)
    step = torch.tensor([0.5, 2.])
    layer.load_state_dict(
        dict(weight=ratio * step[:, None], step_size=step))
    upstream = torch.arange(1., 19.).view(2, 9)
    layer.quantized_weight().backward(upstream)

    inside = (ratio >= low) & (ratio <= high)
    slope = torch.where(inside, ratio.round() - ratio,
                        ratio.clamp(low, high))
    assert torch.equal(layer.weight.grad, upstream * inside)
    # One multiplication by the scale, rounded: the last place.
    torch.testing.assert_close(
        layer.step_size.grad,
        (upstream * slope).sum(1) / (18 * high)**0.5, rtol=3e-7, atol=0)


def test_ties_round_to_even():
    layer = LSQLinear(4, 1, bias=False)
    layer.load_state_dict(
        dict(weight=torch.tensor([[0.5, 1.5, 2.5, -0.5]]),
             step_size=torch.ones(1)))
    assert layer.integer_weight().tolist() == [[0, 2, 2, 0]]


def test_ratios_are_divided_not_multiplied_by_a_reciprocal():
    step = torch.rand(200) + 0.1
    weight = (torch.arange(-8, 7) + 0.5) * step[:, None]  # ties, about
    layer = LSQLinear(15, 200, bias=False)
    layer.load_state_dict(dict(weight=weight, step_size=step))
    divided = (weight / step[:, None]).clamp(-8, 7).round()
    multiplied = (weight * (1 / step[:, None])).clamp(-8, 7).round()
    assert not torch.equal(divided, multiplied)
    assert torch.equal(layer.integer_weight(), divided.to(torch.int8))
    assert torch.equal(layer.quantized_weight(), divided * step[:, None])


@BOTH
def test_without_bits_the_layer_is_float(make):
    layer = make(bits=None)
    assert layer.quantized_weight() is layer.weight
    assert layer.step_size is None
    assert set(layer.state_dict()) == {'weight', 'bias'}
    parent = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    x = sample(layer)
    assert torch.equal(layer(x), parent.forward(layer, x))
    with pytest.raises(ValueError, match='no integer codes'):
        layer.integer_weight()


@BOTH
@pytest.mark.parametrize('bits', [0, 5, 16, -4, '4', True, 1., 'binary'])
def test_other_bits_are_refused(make, bits):
    with pytest.raises(ValueError, match='bits must be'):
        make(bits=bits)


def test_bits_are_shown():
    assert 'bits=3' in repr(LSQConv2d(2, 2, 1, bits=3))


@BOTH
def test_autocast_runs_the_layer_in_half_precision(make):
    layer = make()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = layer(sample(layer))
    assert out.dtype == torch.bfloat16
    assert layer.quantized_weight().dtype == torch.float32


# --------------------------------------------------- the life of a step size


@BOTH
@pytest.mark.parametrize('bits', BITS)
def test_step_size_is_positive_from_construction(make, bits):
    layer = make(bits=bits)
    expected = 2 * layer.weight.abs().mean() / (2**(bits - 1) - 1)**0.5
    assert expected > 0
    assert torch.equal(layer.step_size, expected.expand(5))
    out = layer.eval()(sample(layer))
    assert out.isfinite().all() and out.std() > 0


def load_torch(layer, state):
    layer.load_state_dict(state)


def load_mmengine(layer, state):
    load_state_dict(layer, state, strict=True)


@BOTH
@pytest.mark.parametrize('load', [load_torch, load_mmengine])
@pytest.mark.parametrize('used', [False, True])
def test_float_weights_bring_their_own_step_size(make, load, used):
    model = nn.Sequential(make())
    layer = model[0]
    if used:
        layer(sample(layer))
    state = float_state(layer)
    load(model, {f'0.{key}': value for key, value in state.items()})
    expected = 2 * state['weight'].abs().mean() / 7**0.5
    assert torch.equal(layer.step_size, expected.expand(5))
    layer(sample(layer))
    assert torch.equal(layer.step_size, expected.expand(5))


@BOTH
@pytest.mark.parametrize('load', [load_torch, load_mmengine])
@pytest.mark.parametrize('learned', [False, True])
def test_a_loaded_step_size_is_kept(make, load, learned):
    layer = make()
    # Also one that happens to be the layer's own first step size.
    step = torch.rand(5) + 0.1 if learned else layer.step_size.detach()
    state = {**float_state(layer), 'step_size': step.clone()}
    load(layer, state)
    layer(sample(layer))
    assert torch.equal(layer.step_size, state['step_size'])


@BOTH
@pytest.mark.parametrize('loaded', [False, True])
def test_step_size_follows_weights_initialised_before_first_use(make, loaded):
    layer = make()
    if loaded:  # a used layer that got float weights counts as fresh again
        layer(sample(layer))
        layer.load_state_dict(float_state(layer))
    nn.init.normal_(layer.weight, std=5.)
    layer(sample(layer))
    expected = 2 * layer.weight.abs().mean() / 7**0.5
    assert torch.equal(layer.step_size, expected.expand(5))


@BOTH
def test_step_size_stays_when_weights_change_after_first_use(make):
    layer = make()
    layer(sample(layer))
    before = layer.step_size.clone()
    with torch.no_grad():
        layer.weight.mul_(5)
    layer(sample(layer))
    assert torch.equal(layer.step_size, before)


@BOTH
def test_a_step_size_set_by_hand_is_kept(make):
    layer = make()
    with torch.no_grad():
        layer.step_size.fill_(0.3)
        layer.weight.mul_(5)
    layer(sample(layer))
    assert torch.equal(layer.step_size, torch.full((5, ), 0.3))


def test_settle_step_sizes_reaches_every_layer():
    model = nn.Sequential(LSQConv2d(3, 4, 1), nn.Sequential(LSQLinear(4, 5)))
    for layer in (model[0], model[1][0]):
        nn.init.normal_(layer.weight, std=5.)
    settle_step_sizes(model)
    for layer in (model[0], model[1][0]):
        expected = 2 * layer.weight.abs().mean() / 7**0.5
        assert torch.equal(layer.step_size,
                           expected.expand_as(layer.step_size))


@BOTH
def test_weights_of_zero_get_a_positive_step_size(make):
    layer = make()
    layer.load_state_dict({k: 0 * v for k, v in float_state(layer).items()})
    assert (layer.step_size > 0).all() and layer.step_size.isfinite().all()
    assert (layer(sample(layer)) == 0).all()


@BOTH
@pytest.mark.parametrize('bits', BITS)
def test_state_dict_round_trip(make, bits):
    source = make(bits=bits)
    with torch.no_grad():
        source.step_size.mul_(0.5 + torch.rand(5))
    state = source.state_dict()
    assert set(state) == {'weight', 'bias', 'step_size'}
    target = make(bits=bits)
    target.load_state_dict(state)
    x = sample(source)
    assert torch.equal(target(x), source(x))
    assert torch.equal(target.step_size, source.step_size)


@BOTH
@pytest.mark.parametrize('duplicate', [
    copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))
])
def test_copies_and_pickles(make, duplicate):
    layer = make()
    with torch.no_grad():
        layer.step_size.mul_(0.7)
    x = sample(layer)
    assert torch.equal(duplicate(layer)(x), layer(x))


@BOTH
@pytest.mark.parametrize('value', [0., -0.1, float('nan'), float('inf')])
@pytest.mark.parametrize('strict', [True, False])
def test_a_damaged_step_size_is_refused(make, value, strict):
    layer = make()
    state = {**float_state(layer), 'step_size': torch.full((5, ), value)}
    with pytest.raises(RuntimeError, match='step_size must be finite and pos'):
        layer.load_state_dict(state, strict=strict)


@BOTH
def test_missing_weights_are_still_reported(make):
    layer = make()
    state = float_state(layer)
    del state['weight']
    with pytest.raises(RuntimeError, match='weight'):
        layer.load_state_dict(state)


@BOTH
def test_a_quantised_checkpoint_does_not_fit_a_float_layer(make):
    state = make(bits=4).state_dict()
    with pytest.raises(RuntimeError, match='step_size'):
        make(bits=None).load_state_dict(state)


@BOTH
def test_a_step_size_pushed_below_zero_stays_usable_and_recovers(make):
    layer = make()
    with torch.no_grad():
        layer.step_size.sub_(2 * layer.step_size[0])
    assert (layer.step_size < 0).all()
    assert (layer.positive_step_size() > 0).all()
    assert layer(sample(layer)).isfinite().all()
    # The sign of the weights must survive: the range is not mirrored.
    code = layer.integer_weight()
    assert (code * layer.weight >= 0).all() and code.any()

    optimizer = torch.optim.SGD([layer.step_size], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        error = (layer.quantized_weight() - layer.weight.detach())
        error.square().sum().backward()
        assert layer.step_size.grad.isfinite().all()
        optimizer.step()
    assert (layer.step_size > 0).all()
    # Back to a fair quantisation: better than all weights at zero.
    assert error.square().sum() < 0.1 * layer.weight.square().sum()


def test_a_violent_optimizer_never_makes_the_output_infinite():
    model = nn.Sequential(LSQConv2d(3, 8, 3), nn.ReLU(), LSQConv2d(8, 4, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1.)
    x = torch.randn(2, 3, 8, 8)
    for _ in range(10):
        optimizer.zero_grad()
        out = model(x)
        assert out.isfinite().all()
        out.square().mean().backward()
        optimizer.step()
        for layer in (model[0], model[2]):
            assert (layer.positive_step_size() > 0).all()


@BOTH
def test_a_checkpoint_never_holds_a_step_size_that_is_not_positive(make):
    layer = make()
    start = layer.step_size[0].item()
    with torch.no_grad():
        layer.step_size.sub_(2 * start)
    before = layer.quantized_weight()
    state = layer.state_dict()
    assert torch.equal(state['step_size'],
                       layer.min_step.expand_as(layer.step_size))
    assert layer.min_step.item() == pytest.approx(start / 20)
    again = make()
    again.load_state_dict(state)
    assert torch.equal(again.quantized_weight(), before)


@BOTH
def test_training_resumes_bit_for_bit(make):
    layer = make()
    x = sample(layer)

    def train(layer):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()

    train(layer)
    resumed = make()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(layer)
    train(resumed)
    assert layer.min_step == resumed.min_step
    assert torch.equal(layer.step_size, resumed.step_size)
    assert torch.equal(layer.weight, resumed.weight)


@BOTH
def test_a_small_step_size_from_a_checkpoint_is_kept(make):
    layer = make()
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    state['step_size'] /= 1000
    state['step_size'][0] /= 1000
    layer.load_state_dict(state)
    layer(sample(layer))
    assert torch.equal(layer.step_size, state['step_size'])
    assert torch.equal(layer.positive_step_size(), state['step_size'])


# ------------------------------------------------------------- in mm modules


def test_conv_module_of_mmcv_trains_a_step():
    module = ConvModule(
        3,
        8,
        3,
        padding=1,
        conv_cfg=dict(type='mmqsdt.LSQConv2d', bits=4),
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='mmqsdt.IELIF'))
    assert type(module.conv) is LSQConv2d and module.conv.bits == 4
    # mmcv initialises the conv again after it was built.
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    out = module(torch.randn(2, 3, 6, 6))
    expected = 2 * module.conv.weight.abs().mean() / 7**0.5
    assert torch.equal(module.conv.step_size, expected.expand(8))
    assert set(out.unique().tolist()) <= {0., 0.25, 0.5, 0.75, 1.}

    before = {k: v.clone() for k, v in module.named_parameters()}
    out.sum().backward()
    optimizer.step()
    for name, parameter in module.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert parameter.isfinite().all(), name
    assert module(torch.randn(2, 3, 6, 6)).isfinite().all()


# ------------------------------------------- a changed weight is seen at once


def step_of_an_optimizer(layer):
    """One that writes through .data, as old ones do."""

    class Old(torch.optim.Optimizer):

        def step(self):
            layer.weight.data.add_(1.)

    Old(layer.parameters(), {}).step()


def swap_as_an_ema_hook(layer):
    layer.train()
    layer.weight.data.copy_(torch.randn_like(layer.weight))
    layer.eval()


def load(layer):
    layer.load_state_dict({
        k: v + 1 for k, v in layer.state_dict().items()})


def write(layer):
    with torch.no_grad():
        layer.weight.add_(1.)


def write_step(layer):
    with torch.no_grad():
        layer.step_size.mul_(2.)


def replace(layer):
    layer.weight = nn.Parameter(layer.weight.detach() + 1)


@BOTH
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('change', [
    step_of_an_optimizer, swap_as_an_ema_hook, load, write, write_step,
    replace, lambda layer: layer.double(), lambda layer: layer.half().float(),
])
def test_a_changed_weight_is_quantised_anew(make, training, change):
    layer = make().train(training)
    x = sample(layer)
    with torch.set_grad_enabled(training):
        before = layer(x)
        change(layer)
        out = layer(x.to(layer.weight.dtype))
        fresh = make().to(layer.weight.dtype)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(out, fresh(x.to(layer.weight.dtype)))
    assert not torch.equal(before, out.to(before.dtype))


@BOTH
def test_a_copy_has_its_own(make):
    layer = make().eval()
    x = sample(layer)
    with torch.no_grad():
        before = layer(x)
        other = copy.deepcopy(layer)
        write(other)
        assert torch.equal(layer(x), before)
        assert not torch.equal(other(x), before)
    assert len(pickle.dumps(layer)) == len(pickle.dumps(make()))


def test_under_inference_mode():
    with torch.inference_mode():
        layer = LSQLinear(24, 5).eval()
        x = sample(layer)
        before = layer(x)
        layer.weight.add_(1)  # tells nobody
        assert not torch.equal(layer(x), before)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('bits', [2, 3, 4, 8])
def test_the_bounds_of_the_range_pass_gradients_and_nothing_beyond(bits,
                                                                   dtype):
    """One number beyond a bound counts as outside, the bound as inside."""
    bounds = torch.tensor([-2**(bits - 1), 2**(bits - 1) - 1], dtype=dtype)
    beyond = torch.nextafter(bounds, bounds * torch.inf)
    layer = LSQLinear(4, 1, bias=False, bits=bits).to(dtype)
    with torch.no_grad():
        layer.step_size.fill_(1.)
        layer.weight.copy_(torch.cat([bounds, beyond]))
    layer.quantized_weight().sum().backward()
    assert layer.weight.grad.tolist() == [[1., 1., 0., 0.]]


@BOTH
def test_gradients_of_gradients(make):
    """What gradient penalties need: of all but the straight-through part."""
    layer = make()
    loss = layer(sample(layer)).square().sum()
    first, = torch.autograd.grad(loss, layer.weight, create_graph=True)
    first.square().sum().backward()
    assert layer.weight.grad.any() and layer.weight.grad.isfinite().all()
