import copy
import math
import pickle

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from mmqsdt.layers import IELIF, LIF, SpikingNeuron, build_neuron

# The published neurons: golden name -> arguments of ours.
PUBLISHED = {
    'multispike': dict(),
    'multispike_att': dict(amplitude=0.5),
    'det_fpn': dict(
        threshold=1., amplitude=1., rounding='half_even', closed_window=True),
    'seg_norm4': dict(
        threshold=1., amplitude=0.25, rounding='half_even',
        closed_window=True),
}
for _name in ('det_rpn', 'det_bbox', 'det_mask'):
    PUBLISHED[_name] = PUBLISHED['det_fpn']


def respond(module, x, upstream):
    """Output of a neuron, and the gradient of its input."""
    x = x.clone().requires_grad_()
    out = module(x)
    out.backward(upstream)
    return out.detach(), x.grad


def dyadic(*shape):
    """Potentials of -1..3 in steps of 1/64: sums are exact, ties occur."""
    return torch.randint(-64, 193, shape) / 64


def recurrence(x, levels, threshold, amplitude, leak):
    """H, C, S, V of one neuron, written out in Python numbers."""
    spikes, membrane = [], 0.
    for x_t in x:
        potential = leak * membrane + x_t
        clamped = min(max(potential / threshold, 0), levels)
        count = math.floor(clamped + 0.5)
        spikes.append(amplitude * count)
        membrane = potential - threshold * count
    return spikes


@pytest.mark.parametrize('name', PUBLISHED)
def test_output_and_gradient_equal_the_published_neuron(golden, name):
    vectors = golden('units', f'{name}/')
    inputs = vectors if 'x' in vectors else golden('units', 'quant/')
    out, grad = respond(
        IELIF(**PUBLISHED[name]), inputs['x'], inputs['upstream'])
    expected = vectors.get('train_out', vectors.get('out'))
    expected_grad = vectors.get('train_grad_x', vectors.get('grad_x'))
    assert torch.equal(out, expected)
    assert torch.equal(grad, expected_grad)


def test_golden_inputs_hold_ties_and_both_saturations(golden):
    # Without them the test above could not tell the roundings apart.
    u = golden('units', 'multispike/')['x'] * 4
    assert set((u[(u > 0) & (u < 4) & (u % 1 == 0.5)]).tolist()) == {
        0.5, 1.5, 2.5, 3.5
    }
    assert (u < 0).any() and (u > 4).any()
    assert (u == 0).any() and (u == 4).any()


@pytest.mark.parametrize('rounding, counts', [
    ('half_up', [0, 1, 2, 3, 4, 4]),
    ('half_even', [0, 0, 2, 2, 4, 4]),
])
def test_rounding_of_exact_ties(rounding, counts):
    potential = torch.tensor([-0.5, 0.5, 1.5, 2.5, 3.5, 4.5])
    module = IELIF(threshold=1., amplitude=1., rounding=rounding)
    assert module(potential).tolist() == counts


@pytest.mark.parametrize('closed, ends', [(False, 0.), (True, 1.)])
def test_gradient_window_is_open_or_closed(closed, ends):
    x = torch.tensor([-0.1, 0., 0.1, 0.9, 1., 1.1])
    _, grad = respond(IELIF(closed_window=closed), x, torch.ones(6))
    assert grad.tolist() == [0., ends, 1., 1., ends, 0.]


@pytest.mark.parametrize('levels', [1, 3, 4, 8])
@pytest.mark.parametrize('threshold, amplitude', [(0.25, 0.25), (0.7, 1.3)])
def test_gradient_is_the_slope_of_the_unrounded_response(
        levels, threshold, amplitude):
    # The surrogate is the derivative of a * clamp(H / theta, 0, D), here by
    # central differences; the two corners themselves are left out.
    u = torch.linspace(-1, levels + 1, 97, dtype=torch.float64)
    u = u[(u.abs() > 1e-3) & ((u - levels).abs() > 1e-3)]
    x, step = u * threshold, 1e-6

    def response(h):
        return amplitude * (h / threshold).clamp(0, levels)

    slope = (response(x + step) - response(x - step)) / (2 * step)
    module = IELIF(levels, threshold, amplitude)
    _, grad = respond(module, x, torch.ones_like(x))
    # Cancellation in the difference quotient: 1e-16 / 1e-6, with room.
    torch.testing.assert_close(grad, slope, rtol=0, atol=1e-8)


def test_one_step_is_amplitude_times_count():
    x = dyadic(6, 5)
    module = IELIF(levels=3, threshold=0.5, amplitude=2.)
    count = module.count(x)
    assert torch.equal(module(x), 2 * count)
    assert set(count.unique().tolist()) == {0., 1., 2., 3.}


def test_one_step_ignores_the_leak():
    x = dyadic(7, 3)
    assert torch.equal(IELIF(leak=0.9)(x), IELIF(leak=0.)(x))


@pytest.mark.parametrize('time_steps', [2, 4])
@pytest.mark.parametrize('levels, threshold, amplitude, leak', [
    (4, 0.25, 0.25, 0.25),
    (4, 0.25, 0.5, 0.25),
    (2, 1., 1., 0.5),
    (1, 0.5, 1., 0.),
    (4, 0.5, 1., 1.),
])
def test_recurrence_over_time(time_steps, levels, threshold, amplitude, leak):
    x = dyadic(time_steps, 3, 5)
    module = IELIF(levels, threshold, amplitude, leak, time_steps)
    out = module(x.flatten(0, 1))
    expected = [
        recurrence(series.tolist(), levels, threshold, amplitude, leak)
        for series in x.flatten(1).T
    ]
    # Exact: with dyadic potentials no sum is rounded.
    assert torch.equal(out.unflatten(0, (time_steps, -1)).flatten(1).T,
                       torch.tensor(expected))


def test_membrane_carries_what_was_not_spent():
    # 0.6 gives two spikes of 0.25 and leaves 0.1; half of it remains, so
    # 0.08 crosses the rounding threshold 0.125 where it would not alone.
    x = torch.tensor([[0.6], [0.08]])
    assert IELIF(leak=0.5, time_steps=2)(x).tolist() == [[0.5], [0.25]]
    assert IELIF(leak=0., time_steps=2)(x).tolist() == [[0.5], [0.]]


def test_a_negative_membrane_is_kept():
    x = torch.tensor([[-1.], [0.5]])
    assert IELIF(leak=0.5, time_steps=2)(x).tolist() == [[0.], [0.]]


def test_samples_of_a_batch_do_not_mix_over_time():
    x = dyadic(4, 3, 5)
    module = IELIF(time_steps=4)
    out = module(x.flatten(0, 1)).unflatten(0, (4, 3))
    for sample in range(3):
        assert torch.equal(out[:, sample], module(x[:, sample]))


def test_gradient_flows_through_time_outside_the_window_only():
    # Step 0 of neuron 0 lies below the window: it fires nothing, its
    # potential is kept and reaches step 1 with the leak. Inside the window
    # what is fired is spent (dV/dH = 1 - 1), so nothing goes on.
    x = torch.tensor([[-0.25, 0.25], [0.5, 0.5]])
    upstream = torch.tensor([[1., 1.], [10., 10.]])
    _, grad = respond(IELIF(leak=0.25, time_steps=2), x, upstream)
    assert grad.tolist() == [[2.5, 1.], [10., 10.]]


@pytest.mark.parametrize('time_steps', [1, 2, 4])
@pytest.mark.parametrize('levels, threshold', [(4, 0.25), (4, 1.), (3, 0.5)])
def test_equals_ilif_node_of_spikingjelly(time_steps, levels, threshold):
    # The definitions agree for half-even rounding, a closed window and
    # counts (amplitude 1); tau = 2 is a leak of 1/2, exact in binary.
    reference = neuron.ILIFNode(
        tau=2.,
        v_threshold=threshold,
        surrogate_function=surrogate.MultiLevelSpikeCount(levels),
        step_mode='m')
    ours = IELIF(
        levels,
        threshold,
        1.,
        leak=0.5,
        time_steps=time_steps,
        rounding='half_even',
        closed_window=True)
    x = dyadic(time_steps, 4, 9)
    upstream = torch.randint(-4, 5, x.shape).float()
    expected, expected_grad = respond(reference, x, upstream)
    out, grad = respond(ours, x.flatten(0, 1), upstream.flatten(0, 1))
    assert torch.equal(out, expected.flatten(0, 1))
    assert torch.equal(grad, expected_grad.flatten(0, 1))


def test_default_leak_is_the_default_of_ilif_node():
    x = torch.randn(4, 3, 50) * 2
    reference = neuron.ILIFNode(step_mode='m')
    ours = IELIF(
        threshold=1., amplitude=1., time_steps=4, rounding='half_even')
    assert torch.equal(ours(x.flatten(0, 1)), reference(x).flatten(0, 1))


def test_default_rounding_differs_from_ilif_node_on_ties_only():
    # Stated on purpose: published weights need half up.
    x = dyadic(1, 2000)
    reference = neuron.ILIFNode(v_threshold=0.25, step_mode='m')
    differs = IELIF()(x) != reference(x) * 0.25
    u = x / 0.25
    even_below = (u > 0) & (u < 4) & (u % 2 == 0.5)
    assert even_below.any()
    assert torch.equal(differs, even_below)


@pytest.mark.parametrize('arguments', [
    dict(levels=0),
    dict(levels=-1),
    dict(levels=2.5),
    dict(threshold=0.),
    dict(threshold=-1.),
    dict(amplitude=0.),
    dict(amplitude=-0.25),
    dict(leak=-0.1),
    dict(leak=1.1),
    dict(rounding='floor'),
    dict(time_steps=0),
])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        IELIF(**arguments)


@pytest.mark.parametrize('cls', [IELIF, LIF])
def test_a_batch_that_holds_no_whole_steps_is_refused(cls):
    with pytest.raises(ValueError, match='batch of 5 .*time_steps=2'):
        cls(time_steps=2)(torch.zeros(5, 3))


@pytest.mark.parametrize('inplace', [False, True])
@pytest.mark.parametrize('time_steps', [1, 2])
@pytest.mark.parametrize('config', [
    dict(type='mmqsdt.IELIF'),
    dict(type='mmqsdt.IELIF', threshold=1., amplitude=1.),
    dict(type='mmqsdt.LIF'),
])
def test_input_is_never_overwritten(config, time_steps, inplace):
    x = dyadic(4, 6)
    before = x.clone()
    build_neuron({**config, 'inplace': inplace}, time_steps)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize('cls', [IELIF, LIF])
@pytest.mark.parametrize('time_steps', [1, 2])
@pytest.mark.parametrize('dtype', [
    torch.bfloat16, torch.float16, torch.float64
])
def test_dtype_is_kept_and_values_are_those_of_float32(
        cls, time_steps, dtype):
    # Sixteenths fit all dtypes, and so does every sum over two steps.
    x = torch.randint(-16, 33, (4, 30)) / 16
    module = cls(time_steps=time_steps)
    out, grad = respond(module, x.to(dtype), torch.ones_like(x).to(dtype))
    expected, expected_grad = respond(module, x, torch.ones_like(x))
    assert out.dtype == grad.dtype == dtype
    assert torch.equal(out.float(), expected)
    # ATan's derivative is rounded to 8 bits in bfloat16; a window is not.
    rtol = 0.05 if cls is LIF else 0
    torch.testing.assert_close(grad.float(), expected_grad, rtol=rtol, atol=0)


@pytest.mark.parametrize('shape', [(4, 3), (4, 3, 5), (4, 3, 5, 6)])
@pytest.mark.parametrize('cls', [IELIF, LIF])
def test_shape_is_kept(cls, shape):
    assert cls(time_steps=2)(torch.rand(shape)).shape == shape


@pytest.mark.parametrize('time_steps', [1, 4])
@pytest.mark.parametrize('tau, threshold', [(2., 1.), (4., 0.5)])
def test_lif_equals_lif_node_of_spikingjelly(time_steps, tau, threshold):
    reference = neuron.LIFNode(
        tau=tau,
        v_threshold=threshold,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
        step_mode='m')
    x = torch.randn(time_steps, 3, 20) * 3
    upstream = torch.randn_like(x)
    expected, expected_grad = respond(reference, x, upstream)
    module = LIF(tau, threshold, time_steps)
    out, grad = respond(module, x.flatten(0, 1), upstream.flatten(0, 1))
    assert torch.equal(out, expected.flatten(0, 1))
    assert torch.equal(grad, expected_grad.flatten(0, 1))
    assert set(out.unique().tolist()) == {0., 1.}


@pytest.mark.parametrize('time_steps', [1, 4])
@pytest.mark.parametrize('cls', [IELIF, LIF])
def test_nothing_is_remembered_between_calls(cls, time_steps):
    module = cls(time_steps=time_steps)
    x = dyadic(8, 5)
    first = module(x)
    module(dyadic(4, 2))  # another shape, in between
    assert torch.equal(module(x), first)
    assert not module.state_dict()


@pytest.mark.parametrize('duplicate', [
    copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))
])
@pytest.mark.parametrize('cls', [IELIF, LIF])
def test_copies_and_pickles_after_a_training_step(cls, duplicate):
    module = cls(time_steps=2)
    x = dyadic(4, 5)
    expected, expected_grad = respond(module, x, torch.ones_like(x))
    out, grad = respond(duplicate(module), x, torch.ones_like(x))
    assert torch.equal(out, expected)
    assert torch.equal(grad, expected_grad)


def test_build_neuron_gives_time_steps_to_neurons_only():
    config = dict(type='mmqsdt.IELIF', levels=2)
    module = build_neuron(config, time_steps=3)
    assert isinstance(module, SpikingNeuron)
    assert (module.levels, module.time_steps) == (2, 3)
    assert config == dict(type='mmqsdt.IELIF', levels=2)
    assert isinstance(build_neuron(dict(type='ReLU'), 3), nn.ReLU)
    assert build_neuron(dict(type=LIF), time_steps=3).time_steps == 3


def test_build_neuron_names_the_known_types():
    with pytest.raises(KeyError, match='mmqsdt.IELIF'):
        build_neuron(dict(type='NoSuchNeuron'))


@pytest.mark.parametrize('threshold', [0.5, 0.3])
def test_whole_numbers_are_potentials_too(threshold):
    neuron, x = IELIF(threshold=threshold), torch.arange(-1, 4)
    assert torch.equal(neuron(x), neuron(x.float()))


def test_settings_without_a_type_are_of_ie_lif():
    neuron = build_neuron(dict(levels=8), 2)
    assert type(neuron) is IELIF
    assert (neuron.levels, neuron.time_steps) == (8, 2)
    learned = build_neuron(dict(levels=2, threshold='learned'))
    assert learned.log_threshold is not None
