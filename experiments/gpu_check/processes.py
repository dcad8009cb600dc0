"""Two processes, each with half a batch, against one with the whole."""

import socket
from typing import TYPE_CHECKING

import torch
from torch import distributed, multiprocessing, nn

from mmqsdt import QSDTransformer

if TYPE_CHECKING:
    from .checks import Setting

FIRST = 'stages.0.blocks.0.sep_conv.expand.neuron.log_threshold'
ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(1, 1), num_heads=2)


def build(device: str) -> nn.Module:
    """Build a backbone whose thresholds start at the first batch."""
    torch.manual_seed(0)
    neuron = dict(type='mmqsdt.IELIF', threshold='learned')
    model = QSDTransformer(ARCH, neuron=neuron, norm_eval=True)
    return model.to(device).double().train()


def start(model: nn.Module, images: torch.Tensor) -> dict:
    """Return where the thresholds start, on the CPU.

    Processes agree on one start for all before an optimizer steps.
    """
    with torch.no_grad():
        model(images)
    torch.optim.SGD(model.parameters(), lr=0.).step()
    return {name: p.detach().cpu() for name, p in model.named_parameters()
            if 'log_threshold' in name}


def gradients(model: nn.Module, images: torch.Tensor) -> dict:
    """Return those of one step, on the CPU."""
    (x, ) = model(images)
    x.square().mean().backward()
    model = getattr(model, 'module', model)
    return {name: p.grad.cpu() for name, p in model.named_parameters()
            if p.grad is not None}


def differing(found: dict, expected: dict, tolerance: float) -> list[str]:
    """Name tensors that are off by more than this of their largest."""
    return [name for name, value in found.items()
            if (value - expected[name]).abs().max() >
            tolerance * expected[name].abs().max().clamp(min=1e-9)]


def work(rank: int, port: int, device: str, images: torch.Tensor,
         thresholds: dict, expected: dict) -> None:
    """Be one of the two processes; an error there ends both."""
    torch.set_num_threads(1)
    is_cuda = device.startswith('cuda')
    if is_cuda:
        device = f'cuda:{rank}'
        torch.cuda.set_device(device)
    distributed.init_process_group(
        'nccl' if is_cuda else 'gloo', rank=rank, world_size=2,
        init_method=f'tcp://127.0.0.1:{port}')
    try:
        model, half = build(device), images.chunk(2)[rank].to(device)
        found = start(model, half)
        everywhere = [{}, {}]
        distributed.all_gather_object(everywhere, found)
        wrong = differing(*everywhere, 0)
        # What the others read comes from neurons that had started from the
        # half. From sums in float32, whatever the dtype.
        wrong += differing({FIRST: found[FIRST]}, thresholds, 1e-5)
        model.load_state_dict(thresholds, strict=False)
        model = nn.parallel.DistributedDataParallel(
            model, device_ids=[rank] if is_cuda else None)
        wrong += differing(gradients(model, half), expected, 1e-6)
        if wrong:
            raise AssertionError(f'differ: {", ".join(wrong)}')
    finally:
        distributed.destroy_process_group()


def compare_processes(setting: 'Setting') -> str:
    """See the module."""
    images = setting.images(4, 32).cpu().double()
    model = build(setting.device)
    thresholds = start(model, images.to(setting.device))
    expected = gradients(model, images.to(setting.device))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(
        work, (port, setting.device, images, thresholds, expected), nprocs=2)
    backend = 'NCCL' if setting.is_cuda else 'gloo'
    return (f'{len(thresholds)} thresholds and {len(expected)} gradients '
            f'equal ({backend})')
