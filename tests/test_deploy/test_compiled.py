"""The compiled fast form is the fast form, to the last bit."""

import shutil
from copy import deepcopy

import pytest
import torch
from networks import as_if_trained
from torch import nn

from mmqsdt.deploy import compiled, to_fast
from mmqsdt.deploy.compiled import COMPILERS, CompiledPart, to_compiled
from mmqsdt.deploy.kernels import find_kernel_obstacle
from mmqsdt.layers import ConvUnit

IE_LIF = dict(type='mmqsdt.IELIF')
SHAPE = (1, 16, 12, 12)
can_compile = pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS))
    or find_kernel_obstacle() is not None,
    reason='no C++ compiler, or no integer kernels')


class Network(nn.Module):
    """A backbone of two units, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            ConvUnit(16, 32, 3, IE_LIF), ConvUnit(32, 16, 1, IE_LIF))
        self.head = ConvUnit(16, 4, 1, IE_LIF)

    def forward(self, x):
        return self.head(self.backbone(x))


@pytest.fixture
def lines(monkeypatch):
    """What was logged."""
    found = []
    monkeypatch.setattr(compiled, 'print_log',
                        lambda line, _: found.append(line))
    return found


@can_compile
def test_it_is_made_kept_and_loaded(tmp_path, lines, monkeypatch):
    model, package = as_if_trained(Network()), tmp_path / 'new' / 'model.pt2'
    x, fast = torch.randn(SHAPE), to_fast(model, torch.randn(SHAPE))
    with torch.no_grad():
        expected = fast(x)
        made = to_compiled(model, package, SHAPE, x)
        assert isinstance(made.backbone, CompiledPart) and not lines
        assert torch.equal(made(x), expected)
        # Without a compiler, from the file.
        monkeypatch.setattr(compiled.shutil, 'which', lambda name: None)
        loaded = to_compiled(model, package, SHAPE, x)
        assert isinstance(loaded.backbone, CompiledPart) and not lines
        assert torch.equal(loaded(x), expected)
        # Another shape, and a copy.
        y = torch.randn(2, 16, 9, 9)
        assert torch.equal(loaded(y), fast(y))
        assert torch.equal(deepcopy(loaded)(x), expected)
        # Of other weights it is not taken.
        other = as_if_trained(Network())
        plain = to_compiled(other, package, SHAPE, x)
        assert not isinstance(plain.backbone, CompiledPart)
        assert torch.equal(plain(x), to_fast(other, x)(x))
    assert len(lines) == 2 and 'other weights' in lines[0]
    assert 'no C++ compiler' in lines[1] and '\n' not in lines[1]


def test_without_a_compiler_it_is_the_plain_fast_form(tmp_path, lines,
                                                      monkeypatch):
    monkeypatch.setattr(compiled.shutil, 'which', lambda name: None)
    model, x = as_if_trained(Network()), torch.randn(SHAPE)
    other = to_compiled(model, tmp_path / 'model.pt2', SHAPE, x)
    with torch.no_grad():
        assert torch.equal(other(x), to_fast(model, x)(x))
    if find_kernel_obstacle() is None:
        assert len(lines) == 1 and 'no C++ compiler' in lines[0]


@pytest.mark.parametrize('name, shape, message', [
    ('model.pt', SHAPE, 'a .pt2 file'), ('model.pt2', (3, 224, 224), 'shape')])
def test_what_is_refused(name, shape, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        to_compiled(Network().eval(), tmp_path / name, shape)
