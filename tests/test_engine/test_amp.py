from contextlib import contextmanager

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from torch import nn

from mmqsdt import QSDTransformer
from mmqsdt.engine.amp import BFloat16OptimWrapper, use_amp


def build(model, **kwargs):
    return build_optim_wrapper(
        model,
        dict(
            type='mmqsdt.BFloat16OptimWrapper',
            optimizer=dict(type='SGD', lr=0.1),
            **kwargs))


def test_forward_runs_in_bfloat16_and_weights_stay_float32():
    model = nn.Linear(4, 2)
    wrapper = build(model)
    assert isinstance(wrapper, BFloat16OptimWrapper)
    x = torch.rand(3, 4)
    with wrapper.optim_context(model):
        y = model(x)
    assert y.dtype == torch.bfloat16
    assert model(x).dtype == torch.float32  # off again
    before = model.weight.detach().clone()
    wrapper.update_params(y.float().square().mean())
    assert model.weight.dtype == torch.float32
    assert not torch.equal(model.weight, before)


def test_autocast_ends_when_the_forward_fails():
    model = nn.Linear(4, 2)
    with pytest.raises(KeyError), build(model).optim_context(model):
        raise KeyError
    assert model(torch.rand(3, 4)).dtype == torch.float32


def test_gradients_are_accumulated_as_without_it():
    model = nn.Linear(4, 2)
    wrapper = build(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    before = model.weight.detach().clone()
    changed = []
    for _ in range(4):
        with wrapper.optim_context(model):
            loss = model(torch.ones(3, 4)).float().sum()
        wrapper.update_params(loss)
        changed.append(not torch.equal(model.weight, before))
        before = model.weight.detach().clone()
    assert changed == [False, True, False, True]


def test_accumulating_steps_do_not_synchronise_processes():

    class Distributed(nn.Linear):
        synchronised = True

        @contextmanager
        def no_sync(self):
            self.synchronised = False
            yield
            self.synchronised = True

    model = Distributed(4, 2)
    wrapper = build(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    seen = []
    for _ in range(4):
        with wrapper.optim_context(model):
            seen.append(model.synchronised)
            loss = model(torch.ones(3, 4)).float().sum()
        wrapper.update_params(loss)
    assert seen == [False, True, False, True]


def test_backbone_trains_and_every_parameter_gets_a_finite_gradient():
    arch = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1), num_heads=2)
    model = QSDTransformer(arch)
    wrapper = build(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with wrapper.optim_context(model):
        (y, ) = model(torch.rand(2, 3, 32, 32))
        loss = y.float().square().mean()
    wrapper.backward(loss)
    for name, p in model.named_parameters():
        assert p.dtype == p.grad.dtype == torch.float32
        assert torch.isfinite(p.grad).all(), name
    wrapper.step()
    changed = [
        n for n, p in model.named_parameters() if not torch.equal(p, before[n])
    ]
    assert 'stages.0.downsample.conv.weight' in changed
    assert 'stages.4.blocks.0.layer_scale2' in changed


@pytest.mark.parametrize('cuda, expected', [
    (True, dict(type='AmpOptimWrapper', loss_scale='dynamic')),
    (False, dict(type='mmqsdt.BFloat16OptimWrapper')),
])
@pytest.mark.parametrize('kind', [dict(), dict(type='OptimWrapper')])
def test_use_amp_fits_the_device(monkeypatch, cuda, expected, kind):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    rest = dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=5))
    cfg = dict(kind, **rest)
    use_amp(cfg)
    assert cfg == dict(expected, **rest)


@pytest.mark.parametrize('kind',
                         ['AmpOptimWrapper', 'mmqsdt.BFloat16OptimWrapper'])
def test_use_amp_leaves_mixed_precision_as_it_is(kind):
    cfg = dict(type=kind, loss_scale=512.)
    use_amp(cfg)
    assert cfg == dict(type=kind, loss_scale=512.)


def test_use_amp_refuses_other_wrappers():
    with pytest.raises(ValueError, match='--amp .* ApexOptimWrapper'):
        use_amp(dict(type='ApexOptimWrapper'))


def test_bfloat16_is_needed_where_mmengine_refuses():
    if torch.cuda.is_available():
        pytest.skip('mmengine accepts CUDA')
    with pytest.raises(AssertionError):
        AmpOptimWrapper(
            optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.))
