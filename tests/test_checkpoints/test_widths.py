"""A step size fits codes of one width: bits of a file and of a model."""

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from mmqsdt import LSQConv2d, LSQLinear
from mmqsdt.checkpoints.fit import load_for_test, load_pretrained
from mmqsdt.checkpoints.read import read_checkpoint, saved_widths

LAYERS = {
    'conv': lambda bits: LSQConv2d(3, 4, 3, bits=bits),
    'linear': lambda bits: LSQLinear(3, 4, bits=bits),
}
FILES = {
    'runner': lambda state: dict(state_dict=state, meta={}),
    'authors': lambda state: dict(model=state),
    'bare': lambda state: state,
}


def model(layer: str, bits: int | None, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(LAYERS[layer](bits))


@pytest.fixture
def save(tmp_path):
    def saved(content: object) -> str:
        torch.save(content, tmp_path / 'x.pth')
        return str(tmp_path / 'x.pth')
    return saved


@pytest.mark.parametrize('file', FILES)
@pytest.mark.parametrize('layer', LAYERS)
@pytest.mark.parametrize('bits', [1, 'ternary', 2, 3, 4, 8])
def test_a_file_says_its_bits(bits, layer, file, save):
    path = save(FILES[file](model(layer, bits).state_dict()))
    assert saved_widths(read_checkpoint(path)) == {'0': bits}
    load_for_test(model(layer, bits), path)
    name = {1: '1 bit', 'ternary': 'ternary codes'}.get(bits, f'{bits} bits')
    for other in {1, 'ternary', 2, 3, 4, 8, None} - {bits}:
        with pytest.raises(ValueError, match=f'saved with {name} of '
                           f'0.weight, the config says {other or "float"}'):
            load_for_test(model(layer, other), path)


@pytest.mark.parametrize('load', [
    lambda model, path: load_pretrained(model, path),
    lambda model, path: load_checkpoint(model, path, logger='silent')])
@pytest.mark.parametrize('layer', LAYERS)
def test_a_training_from_other_bits_derives_its_steps(layer, load, save):
    source, fresh = model(layer, 4), model(layer, 2, seed=1)
    with torch.no_grad():
        source[0].step_size.mul_(3)
    load(fresh, save(source.state_dict()))
    assert torch.equal(fresh[0].weight, source[0].weight)
    expected = model(layer, 2)  # of the same weights
    assert torch.equal(fresh[0].step_size, expected[0].step_size)


def test_step_sizes_without_a_layer_for_them_are_refused(save):
    """Files of before do not say their bits."""
    state = dict(model('conv', 4).state_dict())
    path = save(state)
    assert saved_widths(read_checkpoint(path)) == {}
    load_for_test(model('conv', 4), path)
    with pytest.raises(ValueError, match='quantized weights, 0.step_size'):
        load_for_test(model('conv', None), path)


@pytest.mark.parametrize('notes', [
    None, 3, [], {'0': 3}, {'0': {'bits': 'x'}}, {3: None}])
def test_notes_that_are_none(notes, save):
    state = model('conv', 4).state_dict()
    state._metadata = notes
    assert saved_widths(dict(state_dict=state)) == {}
