"""torch.compile takes the whole backbone, without a compiler of C++."""

from copy import deepcopy

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch._dynamo import config as dynamo
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters

from mmqsdt import QSDTransformer
from mmqsdt.engine.hooks import EagerFirstStepHook
from mmqsdt.layers import IELIF, LSQConv2d

ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1), num_heads=2)
LEARNED = dict(type='mmqsdt.IELIF', threshold='learned')


@pytest.fixture(autouse=True)
def forget_graphs():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Model(BaseModel):
    """The backbone and a loss, as a runner trains it."""

    def __init__(self, neuron=dict(type='mmqsdt.IELIF'), out_indices=(4, )):
        super().__init__()
        self.backbone = QSDTransformer(
            ARCH, neuron=neuron, out_indices=out_indices)

    def forward(self, x, mode='loss'):
        return dict(loss=sum(y.square().mean() for y in self.backbone(x)))


# The backward pass as a graph too, which takes as long again, for one.
@pytest.mark.parametrize('neuron, backend', [
    (dict(type='mmqsdt.IELIF'), 'eager'), (LEARNED, 'aot_eager')],
    ids=['fixed', 'learned'])
def test_trains_in_one_graph(neuron, backend):
    """20 steps forward and backward: no break, compiled once."""
    model = Model(neuron).train()
    if 'threshold' in neuron:
        model(torch.randn(2, 3, 32, 32))  # thresholds start
    eager = deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with dynamo.patch(error_on_recompile=True):
        for step in range(20):
            x = torch.randn(2, 3, 32, 32)
            optimizer.zero_grad()
            loss = compiled(x)['loss']
            loss.backward()
            if not step:
                expected = eager(x)['loss']
                expected.backward()
                # Float32 sums in another order.
                torch.testing.assert_close(
                    loss, expected, rtol=1e-4, atol=1e-4)
                for a, b in zip(model.parameters(), eager.parameters()):
                    assert a.grad.isfinite().all()
                    assert a.grad.any() == b.grad.any()
            optimizer.step()
    assert counters['stats']['unique_graphs'] == 1
    assert not counters['graph_break']


@pytest.mark.parametrize('neuron', [dict(type='mmqsdt.IELIF'), LEARNED],
                         ids=['fixed', 'learned'])
def test_predicts_in_one_graph(neuron):
    model = QSDTransformer(ARCH, neuron=neuron).eval()
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    with torch.no_grad(), dynamo.patch(error_on_recompile=True):
        for _ in range(20):
            x = torch.randn(2, 3, 32, 32)
            assert torch.equal(compiled(x)[0], model(x)[0])
    assert counters['stats']['unique_graphs'] == 1


def test_a_step_size_settles_before_its_layer_is_compiled():
    conv = LSQConv2d(4, 8, 3)
    torch.nn.init.normal_(conv.weight)  # its step size follows
    expected = deepcopy(conv)
    compiled = torch.compile(conv, fullgraph=True, backend='eager')
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(compiled(x), expected(x))
    assert torch.equal(conv.step_size, expected.step_size)
    torch.nn.init.ones_(conv.weight)  # and no longer
    assert torch.equal(compiled(x), conv(x))
    assert torch.equal(conv.step_size, expected.step_size)


def test_a_threshold_that_has_not_started_says_what_to_do():
    neuron = IELIF(threshold='learned')
    compiled = torch.compile(neuron, fullgraph=True, backend='eager')
    with pytest.raises(Unsupported, match='run one batch in training mode'):
        compiled(torch.randn(2, 8))


@pytest.mark.parametrize('neuron', [dict(type='mmqsdt.IELIF'), LEARNED],
                         ids=['fixed', 'learned'])
def test_compile_in_a_config(neuron, tmp_path):
    data = [torch.randn(3, 32, 32) for _ in range(6)]
    runner = Runner(
        Model(neuron, (1, )), str(tmp_path),
        train_dataloader=dict(
            dataset=data, batch_size=2, sampler=dict(type='DefaultSampler'),
            collate_fn=lambda batch: dict(x=torch.stack(batch))),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        custom_hooks=[EagerFirstStepHook()],
        cfg=dict(compile=dict(backend='eager')), experiment_name='compile')
    weight = runner.model.backbone.stages[0].downsample.conv.weight
    before = weight.detach().clone()
    runner.train()
    assert not torch.equal(weight, before)
    assert counters['stats']['unique_graphs'] > 0
    # The runner's own: where the backward pass begins and the optimizer is.
    assert all('backward' in reason or 'graph_break()' in reason
               for reason in counters['graph_break'])
