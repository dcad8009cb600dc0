"""Packed weights: every code comes back, and bad files are refused."""

import json
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import ARCH
from torch import nn

import mmqsdt
from mmqsdt import QSDTransformer, convert_reference_checkpoint
from mmqsdt.checkpoints import packing as module
from mmqsdt.checkpoints.fit import load_for_test
from mmqsdt.checkpoints.packing import (
    is_packed,
    load_packed,
    pack,
    pack_codes,
    packed_size,
    quantized_layers,
    read_packed,
    unpack_codes,
)
from mmqsdt.deploy import to_integer
from mmqsdt.layers import IELIF, LSQConv2d, LSQLinear

WIDTHS = (2, 3, 4, 8)


class Net(nn.Module):
    """Convs with odd numbers of codes, a norm, and a float layer."""

    def __init__(self, bits: int | None = 4, classes: int = 7) -> None:
        super().__init__()
        self.conv = LSQConv2d(3, 5, 3, bits=bits)
        self.norm = nn.BatchNorm2d(5)
        self.neuron = IELIF()
        self.fc = LSQLinear(5, classes, bits=bits)
        self.float_fc = LSQLinear(classes, 3, bits=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.neuron(self.norm(self.conv(x)))
        return self.float_fc(self.fc(x.mean((2, 3))))


def net(bits: int | None = 4, **kwargs) -> Net:
    """A net whose codes take every value, and clip."""
    model = Net(bits, **kwargs)
    for layer in quantized_layers(model).values():
        nn.init.normal_(layer.weight)
        with torch.no_grad():
            layer.step_size.uniform_(.5, 2.).div_(2**(bits - 1))
    nn.init.normal_(model.norm.running_mean)
    nn.init.normal_(model.norm.bias)
    return model.eval()


@pytest.fixture
def packed(tmp_path) -> Path:
    """A packed net of 4 bits."""
    pack(net(), tmp_path / 'net.safetensors')
    return tmp_path / 'net.safetensors'


# Codes.


@pytest.mark.parametrize('bits', WIDTHS)
@pytest.mark.parametrize('count', [1, 2, 3, 5, 8, 31, 1000])
def test_codes_come_back(bits, count):
    codes = torch.randint(-2**(bits - 1), 2**(bits - 1), (count, ))
    codes = codes.to(torch.int8)
    packed = pack_codes(codes, bits)
    assert len(packed) == packed_size(bits, (count, )) == -(-count * bits // 8)
    back = unpack_codes(packed, bits, (count, 1))
    assert back.dtype == torch.int8
    assert torch.equal(back, codes.view(count, 1))


@pytest.mark.parametrize('bits', WIDTHS)
def test_every_code_comes_back(bits):
    codes = torch.arange(-2**(bits - 1), 2**(bits - 1), dtype=torch.int8)
    assert torch.equal(
        unpack_codes(pack_codes(codes, bits), bits, codes.shape), codes)


def test_layout_by_hand():
    codes = torch.tensor([-4, 3, 0], dtype=torch.int8)
    # 3 bits, offset 4, the lowest bit first: 000 111 001 -> 0b00111000, 1.
    assert pack_codes(codes, 3) == bytes([0b00111000, 0b1])


# Whole models.


@pytest.mark.parametrize('huffman', [True, False])
@pytest.mark.parametrize('bits', WIDTHS)
def test_round_trip(bits, huffman, tmp_path):
    source, target = net(bits), net(bits)
    path = tmp_path / 'new/folder/net.safetensors'
    pack(source, path, 'model = dict()', huffman)
    state_dict, metadata = read_packed(path)
    assert metadata['config'] == 'model = dict()'
    assert (metadata['format'], metadata['format_version']) == (
        'mmqsdt-packed', '1')
    assert set(metadata['layers']) == {'conv', 'fc'}
    load_packed(target, path)
    mine, theirs = quantized_layers(source), quantized_layers(target)
    for name, layer in mine.items():
        assert metadata['layers'][name]['bits'] == bits
        codes = layer.integer_weight()
        assert codes.unique().numel() > 2
        assert torch.equal(state_dict[f'{name}.weight'], codes)
        assert torch.equal(theirs[name].integer_weight(), codes)
        assert torch.equal(theirs[name].step_size, layer.step_size)
        assert torch.equal(theirs[name].quantized_weight(),
                           layer.quantized_weight())
    x = torch.randn(4, 3, 6, 6)
    assert torch.equal(target(x), source(x))
    quantized = {f'{n}.{x}' for n in mine for x in ('weight', 'step_size')}
    for name, value in source.state_dict().items():
        if name not in quantized:
            assert torch.equal(target.state_dict()[name], value)
            assert target.state_dict()[name].dtype == value.dtype
    pack(target, tmp_path / 'again.safetensors', 'model = dict()', huffman)
    assert read_packed(tmp_path / 'again.safetensors')[1] == metadata


def test_published_weights_come_back(golden, tmp_path):
    weights = convert_reference_checkpoint(
        {k: v for k, v in golden('tiny_cls', 'state/').items()
         if isinstance(v, torch.Tensor)}, backbone_only=True)
    images = golden('tiny_cls')['input']

    def build() -> QSDTransformer:
        c = [weights[f'stages.{i}.downsample.norm.weight'].numel()
             for i in (1, 2, 3, 4)]
        depths = [len({k.split('.')[3] for k in weights
                       if k.startswith(f'stages.{i}.blocks.')})
                  for i in (3, 4)]
        return QSDTransformer(dict(embed_dims=c, depths=depths)).eval()

    source, target = build(), build()
    source.load_state_dict(weights)
    size = pack(source, tmp_path / 'x.safetensors')
    load_packed(target, tmp_path / 'x.safetensors')
    assert torch.equal(target(images)[0], source(images)[0])
    assert size.file < size.unpacked / 5


def test_packing_leaves_the_model_alone(tmp_path):
    model = net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pack(model, tmp_path / 'net.safetensors')
    assert model.training
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_layers_without_bits_stay_float(tmp_path):
    with pytest.raises(ValueError, match='nothing to pack'):
        pack(Net(bits=None), tmp_path / 'x.safetensors')
    assert not (tmp_path / 'x.safetensors').exists()
    pack(net(), tmp_path / 'x.safetensors')
    assert load_file(tmp_path / 'x.safetensors')[
        'float_fc.weight'].dtype == torch.float32


def test_shared_layers_come_back(tmp_path):
    def build() -> nn.Module:
        layer = LSQLinear(6, 6)
        return nn.Sequential(layer, nn.ReLU(), layer).eval()

    source, target = build(), build()
    pack(source, tmp_path / 'x.safetensors')
    load_packed(target, tmp_path / 'x.safetensors')
    x = torch.randn(2, 6)
    assert torch.equal(target(x), source(x))


def test_loading_is_exposed_and_reached_by_testing(packed):
    assert mmqsdt.load_packed is load_packed

    class Wrapper(nn.Module):

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    direct, wrapped = net(), net()
    mmqsdt.load_packed(direct, packed)
    load_for_test(Wrapper(wrapped), packed)
    assert all(
        torch.equal(v, direct.state_dict()[k])
        for k, v in wrapped.state_dict().items())


def test_what_cannot_come_back_is_not_packed(tmp_path):
    path = tmp_path / 'x.safetensors'
    with pytest.raises(ValueError, match='pack the float form'):
        pack(to_integer(backbone()), path)
    model = net()
    with torch.no_grad():
        model.fc.weight[0, 0] = float('nan')
    with pytest.raises(ValueError, match='fc: weights .* not finite'):
        pack(model, path)
    # 8 bits of significand do not hold 127 steps.
    with pytest.raises(ValueError, match='pack the model in float32'):
        pack(net(8).bfloat16(), path)
    assert not path.exists()


def test_a_file_that_cannot_be_written_leaves_the_old_one(packed,
                                                          monkeypatch):
    content = packed.read_bytes()

    def full(*args) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space left'):
        pack(net(8), packed)
    assert packed.read_bytes() == content
    assert list(packed.parent.iterdir()) == [packed]


# Sizes.


def backbone() -> QSDTransformer:
    return QSDTransformer(ARCH).eval()


def classifier(arch: str, bits: int = 4) -> nn.Module:
    """A published classifier; normal weights, as training leaves them."""
    with torch.device('meta'):
        trunk = QSDTransformer(arch, weight_bits=bits)
        fc = LSQLinear(trunk.channels[-1], 1000, bits=bits)
    model = nn.ModuleDict(dict(backbone=trunk, fc=fc)).to_empty(device='cpu')
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.normal_()
        else:
            value.zero_()
    for layer in quantized_layers(model).values():
        layer.reset_step_size()
    return model.eval()


@pytest.mark.parametrize('bits', WIDTHS)
def test_codes_take_their_bits(bits, tmp_path):
    model = LSQLinear(300, 200, bits=bits)
    with torch.no_grad():  # uniform codes: no coding can save anything
        codes = torch.randint(-2**(bits - 1), 2**(bits - 1), (200, 300))
        model.weight.copy_(codes)
        model.step_size.fill_(1.)
    size = pack(model, tmp_path / 'x.safetensors')
    assert size.codes == 200 * 300 * bits / 8
    assert size.rest == 2 * 200 * 4  # step sizes and bias
    assert size.unpacked == (200 * 300 + 2 * 200) * 4
    assert size.file == (tmp_path / 'x.safetensors').stat().st_size
    assert size.file <= 1.03 * size.bound + 600  # and a header
    assert read_packed(tmp_path / 'x.safetensors')[1]['layers'][''][
        'coding'] == 'plain'


@pytest.mark.parametrize('arch, bits', [('15m', 2), ('15m', 3), ('15m', 4),
                                        ('15m', 8), ('55m', 4)])
def test_sizes_of_published_networks(arch, bits, tmp_path):
    model = classifier(arch, bits)
    plain = pack(model, tmp_path / 'plain.safetensors', 'x' * 8000, False)
    assert plain.bound < plain.file < 1.03 * plain.bound
    size = pack(model, tmp_path / 'x.safetensors', 'x' * 8000)
    assert size.file < 1.03 * size.bound
    torch.save(model.state_dict(), tmp_path / 'float.pth')
    float_file = (tmp_path / 'float.pth').stat().st_size
    if bits <= 4:
        assert float_file / size.file > 7.5
    if (arch, bits) == ('15m', 4):  # why the codes are Huffman-coded
        assert float_file / plain.bound < 7.5


# What is refused.


@pytest.mark.parametrize('change, reason', [
    (dict(bits=2), 'conv: 4 bits, .* in the file, 2 bits, .* in the model'),
    (dict(bits=8), r'\(\d+ differences\). First: conv: 4 bits'),
    (dict(classes=9), r'fc: 4 bits, shape \(7, 5\) in the file'),
    (dict(bits=None), 'conv: 4 bits, .* in the file, not quantised in the'),
])
def test_another_model_is_refused(packed, change, reason):
    other = Net(**change)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ValueError, match=reason):
        load_packed(other, packed)
    assert all(
        torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_a_model_with_more_in_it_is_refused(packed):
    other = net()
    other.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match='extra.weight: absent in the file'):
        load_packed(other, packed)
    del other.extra, other.norm
    with pytest.raises(ValueError, match='norm.*: .* absent in the model'):
        load_packed(other, packed)


def test_every_truncation_is_refused(packed):
    content = packed.read_bytes()
    for end in [*range(0, len(content), 97), len(content) - 1]:
        packed.write_bytes(content[:end])
        with pytest.raises(ValueError, match='truncated, damaged or no'):
            read_packed(packed)
        assert not is_packed(packed)


def test_every_flipped_byte_of_the_tensors_is_refused(packed):
    content = bytearray(packed.read_bytes())
    start = 8 + struct.unpack('<Q', content[:8])[0]
    for i in range(start, len(content), 7):
        content[i] ^= 1
        packed.write_bytes(content)
        with pytest.raises(ValueError, match='altered after it was packed'):
            read_packed(packed)
        content[i] ^= 1


def test_pickles_and_other_files_are_refused(packed, tmp_path, monkeypatch):

    class Bomb:

        def __reduce__(self):
            return (pytest.fail, ('unpickled', ))

    for name in ('load', 'loads', 'Unpickler'):
        monkeypatch.setattr(
            pickle, name, lambda *args, **kwargs: pytest.fail('unpickled'))
    path = tmp_path / 'bomb.safetensors'
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match='no .safetensors file'):
        load_packed(net(), path)
    torch.save(net().state_dict(), path)
    with pytest.raises(ValueError, match='no .safetensors file'):
        load_packed(net(), path)
    save_file(net().state_dict(), path)
    with pytest.raises(ValueError, match='tools/pack.py writes those'):
        load_packed(net(), path)
    assert not is_packed(path)
    with pytest.raises(FileNotFoundError, match='no packed weights at'):
        load_packed(net(), tmp_path / 'none.safetensors')
    load_packed(net(), packed)  # with no pickle at all


def test_another_version_is_refused(packed, monkeypatch):
    monkeypatch.setattr(module, 'VERSIONS', ('3', '4'))
    with pytest.raises(ValueError, match='version 1, .* versions 3 and 4'):
        read_packed(packed)


def forge(path: Path, change: Callable[[dict, dict], object]) -> None:
    """Change tensors and layers of a packed file; the checksum fits.

    Args:
        path (Path): The file.
        change (Callable): Changes the tensors and the layers it is given;
            text that it returns goes in place of the layers.
    """
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
    tensors = load_file(path)
    layers = json.loads(metadata['layers'])
    text = change(tensors, layers)
    metadata['layers'] = text if isinstance(text, str) else json.dumps(layers)
    metadata['sha256'] = module._checksum(tensors, metadata)
    save_file(tensors, path, metadata)


HUGE = 2**62


@pytest.mark.parametrize('change, reason', [
    (lambda t, x: x['fc'].update(shape=[7, HUGE]), 'bytes cannot hold'),
    (lambda t, x: x['fc'].update(shape=[7, HUGE], coding='plain'),
     'bytes of codes, its shape'),
    (lambda t, x: x['fc'].update(shape=[7, 6]), 'do not hold exactly'),
    (lambda t, x: x['fc'].update(shape=[7, 4]), 'do not hold exactly'),
    (lambda t, x: x['fc'].update(shape=[-7, -5]), r'shape \[-7, -5\]'),
    (lambda t, x: x['fc'].update(shape=[]), r'shape \[\]'),
    (lambda t, x: x['fc'].update(shape=[7, True]), r'shape \[7, True\]'),
    (lambda t, x: x['fc'].update(shape=[7., 5.]), r'shape \[7.0, 5.0\]'),
    (lambda t, x: x['fc'].update(shape='75'), 'shape 75'),
    (lambda t, x: x['fc'].update(bits=5), 'bits 5'),
    (lambda t, x: x['fc'].update(bits=[4]), r'bits \[4\]'),
    (lambda t, x: x['fc'].update(bits=True), 'bits True'),
    (lambda t, x: x['fc'].update(bits='binary'), 'bits binary'),
    (lambda t, x: x['fc'].pop('bits'), 'bits None'),
    (lambda t, x: x.update(fc=3), 'bits None'),
    (lambda t, x: x['fc'].update(coding='zip'), 'coding zip'),
    (lambda t, x: x.update(gc=x['fc']), 'gc has no codes'),
    (lambda t, x: t.update({'fc.weight': torch.zeros(7, 5)}), 'has no codes'),
    (lambda t, x: t.update(
        {'fc.weight': torch.zeros(18, dtype=torch.uint8)}), 'written by'),
    (lambda t, x: t.pop('fc.step_size'), 'no positive step'),
    (lambda t, x: t['fc.step_size'].neg_(), 'no positive step'),
    (lambda t, x: t['fc.step_size'].fill_(float('inf')), 'step'),
    (lambda t, x: t.update({'fc.step_size': torch.ones(6)}), 'step sizes'),
    (lambda t, x: '[1, 2]', 'list of layers'),
    (lambda t, x: '{', 'not written by mmqsdt'),
    (lambda t, x: '[' * 100_000, 'not written by mmqsdt'),
    (lambda t, x: '1' * 10_000, 'not written by mmqsdt'),
])
def test_forged_files_are_refused(packed, change, reason):
    forge(packed, huffman_coded)
    load_packed(net(), packed)  # forged, but right
    forge(packed, change)
    with pytest.raises(ValueError, match=reason):
        load_packed(net(), packed)


def test_values_that_are_not_finite_are_refused(packed):
    forge(packed, lambda t, x: t['norm.bias'].fill_(float('nan')))
    with pytest.raises(ValueError, match=r'values of norm\.bias are not fin'):
        load_packed(net(), packed)


def huffman_coded(tensors: dict, layers: dict) -> None:
    """Have the codes of fc as a zlib stream, smaller or not."""
    assert layers['fc']['coding'] == 'plain'
    data = module._huffman(tensors['fc.weight'].numpy().tobytes())
    tensors['fc.weight'] = torch.frombuffer(
        bytearray(data), dtype=torch.uint8)
    layers['fc']['coding'] = 'huffman'


def test_a_small_file_cannot_claim_much_memory():
    bomb = zlib.compress(bytes(10**6), 9)  # 1000 times smaller, by matches
    with pytest.raises(ValueError, match='cannot hold'):
        module._huffman_decoded(bomb, 10**6)
    assert module._huffman_decoded(
        module._huffman(bytes(10**6)), 10**6) == bytes(10**6)


def test_random_files_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / 'x.safetensors'
    for i in range(500):
        content = rng.bytes(int(rng.integers(0, 300)))
        if i % 2:  # a header of fitting length
            content = struct.pack('<Q', max(len(content) - 8, 0)) + content
        path.write_bytes(content)
        with pytest.raises(ValueError):
            read_packed(path)
        assert not is_packed(path)


@pytest.mark.parametrize('part', ['header', 'anywhere'])
def test_mutated_files_load_alike_or_are_refused(packed, part):
    """3000 mutations: bytes changed, cut out, doubled, swapped."""
    rng = np.random.default_rng(0)
    content = packed.read_bytes()
    expected, metadata = read_packed(packed)
    end = 8 + struct.unpack('<Q', content[:8])[0]
    end = end if part == 'header' else len(content)
    refused = 0
    for _ in range(1500):
        data = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            i, n = int(rng.integers(0, end)), int(rng.integers(1, 9))
            kind = rng.integers(0, 4)
            if kind == 0:
                data[i:i + n] = rng.bytes(n)
            elif kind == 1:
                del data[i:i + n]
            elif kind == 2:
                data[i:i] = data[i:i + n]
            else:  # a digit for a digit: sizes, offsets, shapes
                data[i:i + 1] = bytes([48 + n])
        packed.write_bytes(data)
        try:
            found, about = read_packed(packed)
        except ValueError:
            refused += 1
            continue
        # E.g. a blank in the padding of the header.
        assert about == metadata and found.keys() == expected.keys()
        assert all(torch.equal(found[k], expected[k]) for k in expected)
    assert refused > 1400


def test_forged_layers_load_alike_or_are_refused(packed):
    """1000 lists of layers with a checksum that fits."""
    rng = np.random.default_rng(0)
    expected, _ = read_packed(packed)
    content = packed.read_bytes()
    refused = 0

    def mutate(tensors: dict, layers: dict) -> str:
        text = bytearray(json.dumps(layers).encode())
        for _ in range(int(rng.integers(1, 4))):
            i = int(rng.integers(0, len(text)))
            text[i] = int(rng.choice(list(b'0123456789{}[],.:"-e ntf')))
        return text.decode()

    for _ in range(1000):
        packed.write_bytes(content)
        forge(packed, mutate)
        try:
            found, _ = read_packed(packed)
        except ValueError:
            refused += 1
            continue
        # Other shapes of as many codes are the model's to refuse.
        for name, value in found.items():
            assert value.numel() == expected[name].numel()
    assert refused > 900
