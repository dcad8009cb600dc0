import errno
import os
import random

import numpy as np
import pytest
import torch
from mmengine.fileio import get_file_backend

from mmqsdt.checkpoints import atomic
from mmqsdt.checkpoints.atomic import write_atomically, write_text
from mmqsdt.checkpoints.read import read_checkpoint
from mmqsdt.engine.random_states import random_states, set_random_states


class FullDisk:
    """A file that takes half of the data."""

    def __init__(self, *args):
        self.file = open(*args)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def write(self, data):
        self.file.write(data[:len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / 'new/x.pth'
    write_atomically(path, b'old')
    assert path.read_bytes() == b'old'
    monkeypatch.setattr(atomic, 'open', FullDisk, raising=False)
    with pytest.raises(OSError, match='No space left'):
        write_atomically(path, b'newer')
    assert [p.name for p in path.parent.iterdir()] == ['x.pth']
    assert path.read_bytes() == b'old'


def test_the_data_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    order = []
    for name in ('fsync', 'replace'):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, real=real:
            (order.append(name), real(*a)))
    write_atomically(tmp_path / 'x', b'1')
    assert order == ['fsync', 'replace', 'fsync']  # file, name, folder


def test_mmengine_finds_the_back_end(tmp_path):
    backend = get_file_backend(
        str(tmp_path), backend_args=dict(backend='atomic-local'))
    backend.put(b'1', tmp_path / 'x')
    backend.put_text('ä', tmp_path / 'y')
    assert (tmp_path / 'x').read_bytes() == b'1'
    assert (tmp_path / 'y').read_text(encoding='utf-8') == 'ä'


def draw() -> list:
    return [random.gauss(0, 1), random.random(), np.random.randn(),
            np.random.rand(), torch.rand(()).item()]


def test_random_numbers_go_on_from_a_checkpoint(tmp_path):
    draw()  # leaves half a pair of normal numbers in two generators
    torch.save(random_states(), tmp_path / 'x.pth')
    expected = draw()
    assert draw() != expected
    set_random_states(read_checkpoint(tmp_path / 'x.pth'))
    assert draw() == expected


def test_a_device_stays_one(tmp_path):
    """By a link, which alone a mistake would replace."""
    (tmp_path / 'out').symlink_to(os.devnull)
    write_text(tmp_path / 'out', 'x')
    assert (tmp_path / 'out').is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ['out']
