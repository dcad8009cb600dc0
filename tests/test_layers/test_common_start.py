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


def train(rank: int, folder: Path, route: str) -> None:
    torch.manual_seed(0)
    model = Branches()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen = []
    for step, taken in enumerate(ROUTES[route][rank]):
        optimizer.zero_grad()
        wrapped(batch(rank, step), taken).backward()
        optimizer.step()
        seen.append([neuron._started for neuron in model.neurons])
    torch.save((seen, model.state_dict()), folder / f'{rank}.pt')


@pytest.mark.parametrize('route', ROUTES)
def test_processes_that_reach_other_neurons(
        route: str, two_processes: Callable, tmp_path: Path):
    """None waits for another, and all have the same thresholds."""
    two_processes(train, route)
    (seen, first), (others, second) = (
        torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    assert seen == others
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    reached = {i for routes in ROUTES[route] for taken in routes
               for i in taken}
    assert [i in reached for i in range(3)] == seen[-1]


def start(rank: int, folder: Path) -> None:
    model = DistributedDataParallel(nn.Sequential(
        nn.Flatten(), IELIF(threshold='learned')))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.)
    model(batch(rank, 0)).sum().backward()
    optimizer.step()
    torch.save(model.module[1].threshold, folder / f'{rank}.pt')


def test_the_start_is_that_of_all_batches(two_processes: Callable,
                                          tmp_path: Path):
    two_processes(start)
    alone = IELIF(threshold='learned')
    alone(torch.cat([batch(rank, 0) for rank in range(2)]))
    for rank in range(2):
        assert torch.load(tmp_path / f'{rank}.pt') == pytest.approx(
            alone.threshold)
