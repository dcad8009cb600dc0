from copy import deepcopy

import pytest
import torch
from mmengine.registry import HOOKS

from mmqsdt import QSDTransformer, integer_training
from mmqsdt.integer_training import store_integers
from mmqsdt.layers import IELIF, IntegerTensor

ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1), num_heads=2)


def build(**kwargs):
    """A small backbone in which every block has its say."""
    model = QSDTransformer(ARCH, out_indices=(1, 2, 3, 4), **kwargs).train()
    for name, p in model.named_parameters():
        if 'layer_scale' in name:
            torch.nn.init.constant_(p, 0.5)
    return model.to(memory_format=torch.channels_last)


def step(model, x):
    """Maps, and gradients by name."""
    maps = model(x)
    sum(y.float().square().mean() for y in maps).backward()
    return maps, {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('options', [
    dict(), dict(with_cp=True), dict(inner_neurons=True),
    dict(time_steps=2), dict(neuron=dict(type='mmqsdt.LIF'), time_steps=2),
    dict(weight_bits=None), dict(frozen_stages=1)], ids=str)
def test_the_backbone_is_the_same_bit_for_bit(options, amp):
    model = build(**options)
    other = store_integers(deepcopy(model), kernels=False)
    x = torch.randn(2, 3, 32, 32)
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        maps, gradients = step(model, x)
        others, same = step(other, x)
    assert all(torch.equal(a, b) for a, b in zip(maps, others))
    assert all(type(y) is torch.Tensor for y in others)
    for name, g in gradients.items():
        assert (g is None) == (same[name] is None)
        assert g is None or torch.equal(g, same[name]), name
    assert model.state_dict().keys() == other.state_dict().keys()


def test_integer_kernels_give_the_same_up_to_rounding():
    model = build().double().float()
    other = store_integers(deepcopy(model))
    x = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    maps, _ = step(model, x)
    others, _ = step(other, x)
    for a, b in zip(maps, others):
        # Float32 sums in another order, twelve layers deep.
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert a.stride() == b.stride()


def test_the_hook_and_its_one_line(monkeypatch):
    seen = []
    monkeypatch.setattr(integer_training, 'print_log',
                        lambda text, logger: seen.append(text))
    monkeypatch.setattr(integer_training, 'find_kernel_obstacle',
                        lambda: 'no such processor')

    class Runner:
        model = build()

    hook = HOOKS.build(dict(type='mmqsdt.IntegerTrainingHook'))
    hook.before_train(Runner)
    neurons = [m for m in Runner.model.modules() if isinstance(m, IELIF)]
    assert {n.storage for n in neurons} == {'bytes'}
    assert len(seen) == 1 and 'no such processor' in seen[0]
    out = neurons[0](torch.randn(2, 8, 4, 4, requires_grad=True))
    assert isinstance(out, IntegerTensor)
