"""Learned thresholds that start in two processes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmqsdt.layers import IELIF


class Branches(nn.Module):
    """Three neurons, of which a call may leave out any."""

    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.neurons = nn.ModuleList(
            IELIF(threshold='learned') for _ in range(3))

    @classmethod
    def first(cls, index: int) -> nn.Module:
        """A linear layer as it is before the first step."""
        torch.manual_seed(0)
        return cls().linears[index]

    def forward(self, x: Tensor, taken: list[int]) -> Tensor:
        out = x + 0 * self.linears[0].bias  # a gradient, whatever is taken
        for i in taken:
            out = out + self.neurons[i](self.linears[i](x))
        return out.square().mean()


# Of both processes in three steps.
ROUTES = dict(
    same=([[0, 1, 2]] * 3, [[0, 1, 2]] * 3),
    skipped=([[0, 1, 2]] * 3, [[0, 2], [0], [0, 1, 2]]),
    shifted=([[0], [1], [2]], [[1], [2], [0]]),
    alone=([[0, 1]] * 3, [[]] * 3),
)


def batch(rank: int, step: int) -> Tensor:
    made = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(8, 6, generator=made) * (1 + rank)


def train(rank: int, folder: Path) -> None:
    for route, taken in ROUTES.items():
        torch.manual_seed(0)
        model = Branches()
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        started, starts = [], []
        for step, neurons in enumerate(taken[rank]):
            optimizer.zero_grad()
            wrapped(batch(rank, step), neurons).backward()
            starts.append([neuron.threshold for neuron in model.neurons])
            optimizer.step()
            started.append([neuron._started for neuron in model.neurons])
        torch.save((started, starts, model.state_dict()),
                   folder / f'{route}{rank}.pt')


def test_processes_that_reach_other_neurons(two_processes: Callable,
                                            tmp_path: Path):
    """None waits for another, and all have the same thresholds."""
    two_processes(train)
    for route, (ours, theirs) in ROUTES.items():
        (started, starts, first), (others, _, second) = (
            torch.load(tmp_path / f'{route}{rank}.pt') for rank in range(2))
        assert started == others, route
        for key, value in first.items():
            assert torch.equal(value, second[key]), (route, key)
        reached = {i for taken in ours + theirs for i in taken}
        assert [i in reached for i in range(3)] == started[-1], route
        for i in ours[0]:  # until the step each has its own
            alone = IELIF(threshold='learned')
            made = Branches.first(i)
            alone(made(batch(0, 0)))
            assert starts[0][i] == pytest.approx(alone.threshold), route


def test_the_start_is_that_of_all_batches(monkeypatch):
    """As sums of two processes are added up."""
    neurons = [IELIF(threshold='learned') for _ in range(2)]
    batches = [batch(rank, 0) for rank in range(2)]
    monkeypatch.setattr('mmqsdt.layers.ie_lif.get_world_size', lambda: 2)
    for neuron, x in zip(neurons, batches):
        neuron(x)
    seen = [torch.tensor(neuron.seen) for neuron in neurons]
    monkeypatch.setattr('mmqsdt.layers.common_start.get_world_size',
                        lambda: 2)
    monkeypatch.setattr('mmqsdt.layers.common_start.all_reduce',
                        lambda total: total.copy_(sum(seen)))
    optimizer = torch.optim.SGD(neurons[0].parameters(), lr=0.)
    optimizer.step()
    alone = IELIF(threshold='learned')
    alone(torch.cat(batches))
    assert neurons[0].threshold == pytest.approx(alone.threshold)
    assert neurons[0].seen is None and neurons[1].seen is not None
