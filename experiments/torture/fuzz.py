"""Mutated files for the readers of packed weights and of checkpoints."""

import io
import json
import os
import resource
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mmqsdt.checkpoints import packing as module
from mmqsdt.checkpoints.convert import (
    convert_reference_checkpoint,
    is_reference_checkpoint,
)
from mmqsdt.checkpoints.packing import pack, read_packed
from mmqsdt.checkpoints.read import load_state_dict
from mmqsdt.layers import LSQConv2d, LSQLinear

from .budget import Budget
from .training import PATIENCE, finish

SLOW = 5.  # seconds; a file of a few kB takes less than one hundredth


def mutate(data: bytes, rng: np.random.Generator, end: int = 0) -> bytes:
    """Change, cut out or double a few bytes, or swap digits."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        i = int(rng.integers(0, end or max(len(data), 1)))
        n = int(rng.integers(1, 9))
        kind = rng.integers(0, 6)
        if kind == 0:
            data[i:i + n] = rng.bytes(n)
        elif kind == 1:
            del data[i:i + n]
        elif kind == 2:
            data[i:i] = data[i:i + n]
        elif kind == 3:  # sizes, offsets, shapes, opcodes
            data[i:i + 1] = bytes([48 + n])
        elif kind == 4:  # lengths and counts at their ends
            data[i:i + n] = bytes([int(rng.choice([0, 127, 255]))]) * n
        else:
            data[i:] = data[i:i + 64 * n]
    return bytes(data)


def fuzz(read: Callable[[bytes], object], make: Callable[[int], bytes],
         number: int, errors: tuple[type, ...],
         budget: Budget | None = None) -> tuple[int, list[str]]:
    """Feed a reader.

    Args:
        read (Callable): The reader.
        make (Callable): The i-th input.
        number (int): Of inputs.
        errors (tuple): What the reader is documented to raise.
        budget (Budget, optional): Has the number of inputs that were given.

    Returns:
        tuple: How many were refused, and what went wrong.
    """
    budget = budget or Budget()
    refused, wrong = 0, []
    before = peak_memory()
    for i in budget.each(range(number)):
        data = make(i)
        start = time.perf_counter()
        try:
            read(data)
        except errors:
            refused += 1
        except BaseException as error:  # all else is what is looked for
            wrong.append(f'input {i}: {type(error).__name__} {error}'[:300])
            if isinstance(error, KeyboardInterrupt) or len(wrong) > 20:
                break
        if time.perf_counter() - start > SLOW:
            wrong.append(f'input {i} took {time.perf_counter() - start:.1f}s')
    if peak_memory() - before > 500:
        wrong.append(f'{peak_memory() - before:.0f} MB more memory')
    budget.figures.append(f'{refused / max(1, budget.done):.0%} refused')
    return refused, wrong


def fuzz_apart(folder: Path, fuzzer: Callable, number: int, budget: Budget
               ) -> tuple[int, list[str]]:
    """Run a fuzzer in a process of its own, which may crash or hang.

    Args:
        folder (Path): For its files.
        fuzzer (Callable): One of those below, of a folder.
        number (int): Of inputs.
        budget (Budget): Is told what was done in that process.

    Returns:
        tuple: How many inputs were given, and what went wrong.
    """
    path = folder / 'fuzzed.json'
    child = os.fork()
    if not child:
        try:
            _, wrong = fuzzer(folder, number, budget=budget)
            path.write_text(json.dumps(
                [budget.done, budget.cut, budget.figures, wrong]))
        except BaseException:  # it must not become a second runner
            traceback.print_exc()
        finally:
            os._exit(0)
    code = finish(child, budget.end - time.monotonic() + PATIENCE)
    if not path.exists():
        return 0, [f'the reader ended with {code}']
    budget.done, budget.cut, budget.figures, wrong = json.loads(
        path.read_text())
    return budget.done, wrong


def peak_memory() -> float:
    """Return the peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        LSQConv2d(3, 4, 3), nn.BatchNorm2d(4), LSQLinear(4, 5))


def fuzz_packed(folder: Path, number: int, seed: int = 0,
                budget: Budget | None = None) -> tuple[int, list[str]]:
    """Mutate packed files: half anywhere, half in what their header says,
    with the check sum that fits."""
    source, path = folder / 'source.safetensors', folder / 'x.safetensors'
    pack(small_net(), str(source))
    content = source.read_bytes()
    with safe_open(source, 'pt') as file:
        metadata = file.metadata()
    tensors = load_file(source)
    rng = np.random.default_rng(seed)

    def make(i: int) -> bytes:
        if i % 2:
            return mutate(content, rng)
        text = bytearray(metadata['layers'].encode())
        for _ in range(int(rng.integers(1, 4))):
            j = int(rng.integers(0, len(text)))
            text[j] = int(rng.choice(list(b'0123456789{}[],.:"-e ntf')))
        forged = dict(metadata, layers=text.decode())
        forged['sha256'] = module._checksum(tensors, forged)
        save_file(tensors, path, forged)
        return path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_packed(str(path))

    return fuzz(read, make, number, (ValueError, ), budget)


def fuzz_checkpoints(folder: Path, number: int, seed: int = 0,
                     budget: Budget | None = None) -> tuple[int, list[str]]:
    """Mutate, read and convert checkpoints in torch's two formats."""
    rng = np.random.default_rng(seed)
    contents = []
    state = small_net().state_dict()
    for new in (True, False):
        file = io.BytesIO()
        torch.save(dict(model=state, meta=dict(epoch=3)), file,
                   _use_new_zipfile_serialization=new)
        contents.append(file.getvalue())
    path = folder / 'x.pth'

    def make(i: int) -> bytes:
        content = contents[i % 2]
        # Most of a file are weights; aim at what is parsed.
        return mutate(content, rng, len(content) if i % 4 < 2 else 1200)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_state_dict(str(path))

    return fuzz(read, make, number, (ValueError, ), budget)


def reference_weights() -> dict[str, torch.Tensor]:
    """Make a few entries with the authors' names."""
    weights = {
        'downsample1_1.encode_conv.weight': torch.randn(4, 3, 7, 7),
        'downsample1_1.encode_conv.alpha': torch.full((4, ), .1),
        'downsample1_1.encode_bn.running_mean': torch.randn(4),
        'ConvBlock1_1.0.Conv.pwconv1.weight': torch.randn(8, 4, 1, 1),
        'ConvBlock1_1.0.Conv.pwconv1.alpha': torch.full((8, ), .1),
        'block3.0.attn.q_conv.0.body.0.weight': torch.randn(4, 4, 1),
        'block3.0.attn.q_conv.0.body.0.alpha': torch.full((4, ), .1),
        'block3.0.attn.q_conv.init_state': torch.zeros(1),
        'head.weight': torch.randn(10, 4), 'head.bias': torch.zeros(10),
        'head.alpha': torch.full((10, ), .1),
    }
    return weights


def fuzz_converter(folder: Path, number: int, seed: int = 0,
                   budget: Budget | None = None) -> tuple[int, list[str]]:
    """Convert state dicts with mutated names, shapes, types and values."""
    rng = np.random.default_rng(seed)
    weights = reference_weights()
    alphabet = list('abcdefghijklmnopqrstuvwxyz0123456789._')
    values = [
        torch.zeros(0), torch.zeros(()), torch.zeros(4, 0, 1),
        torch.full((4, ), float('nan')), torch.full((4, ), -1.),
        torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool),
        torch.zeros(4, dtype=torch.complex64), torch.zeros(3, 2, 1, 1, 1),
        torch.full((4, ), 1e-45), torch.full((7, ), .1)
    ]

    def make(i: int) -> dict:
        made = dict(weights)
        for _ in range(int(rng.integers(1, 4))):
            key = str(rng.choice(sorted(made)))
            kind = rng.integers(0, 4)
            value = made.pop(key)
            if kind == 0:
                j = int(rng.integers(0, len(key)))
                key = key[:j] + str(rng.choice(alphabet)) + key[j + 1:]
            elif kind == 1:
                value = values[int(rng.integers(0, len(values)))]
            elif kind == 2:
                continue  # missing
            else:
                key = str(rng.choice(['module.', 'backbone.', ''])) + key
            made[key] = value
        return made

    def read(state: dict) -> None:
        is_reference_checkpoint(state)
        convert_reference_checkpoint(state)

    return fuzz(read, make, number, (ValueError, ), budget)
