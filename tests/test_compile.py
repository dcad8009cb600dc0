"""torch.compile takes the whole backbone, without a compiler of C++."""

from copy import deepcopy

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch._dynamo.utils import counters

from mmqsdt import QSDTransformer
from mmqsdt.layers import settle_step_sizes

ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1), num_heads=2)


class Model(BaseModel):
    """The backbone and a loss, as a runner trains it."""

    def __init__(self, out_indices):
        super().__init__()
        self.backbone = QSDTransformer(ARCH, out_indices=out_indices)

    def forward(self, x, mode='loss'):
        return dict(loss=sum(y.square().mean() for y in self.backbone(x)))


def step(model, x):
    """Loss, and gradients by name."""
    loss = model(x)['loss']
    loss.backward()
    return loss, {n: p.grad for n, p in model.named_parameters()}


def test_compiles_without_a_graph_break():
    model = Model((1, 2, 3, 4)).train()
    settle_step_sizes(model)
    x = torch.randn(2, 3, 32, 32)
    expected, _ = step(deepcopy(model), x)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    loss, gradients = step(compiled, x)
    # Float32 sums in another order.
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    assert all(g is not None and g.isfinite().all()
               for g in gradients.values())


def test_compile_in_a_config(tmp_path):
    data = [torch.randn(3, 32, 32) for _ in range(4)]
    runner = Runner(
        Model((1, )), str(tmp_path),
        train_dataloader=dict(
            dataset=data, batch_size=2, sampler=dict(type='DefaultSampler'),
            collate_fn=lambda batch: dict(x=torch.stack(batch))),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        cfg=dict(compile=dict(backend='eager')), experiment_name='compile')
    weight = runner.model.backbone.stages[0].downsample.conv.weight
    before = weight.detach().clone()
    counters.clear()
    runner.train()
    assert not torch.equal(weight, before)
    assert counters['stats']['unique_graphs'] > 0
    # The runner's own: where the backward pass begins and the optimizer is.
    assert all('backward' in reason or 'graph_break()' in reason
               for reason in counters['graph_break'])
