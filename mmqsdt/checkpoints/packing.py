"""Weights on disk at their true width: 1 to 8 bits, or 1.6, a weight.

A packed file is a .safetensors file. Every LSQ layer has its codes there as
``<layer>.weight`` (uint8) and its ``<layer>.step_size``; everything else is
as in the state dict. The metadata:

- format, format_version: 'mmqsdt-packed', '1'; '2' if a layer has ternary
  or 1-bit codes
- config: text of the config, to be read by people; never executed
- layers: JSON, layer -> bits, shape, coding
- sha256: of all of the above and all tensors

Codes are stored as code + 2^(bits-1), bit-packed without gaps in the order
of the weight, the lowest bit first; those of 1 bit, -1 and 1, as 0 and 1.
Ternary codes, bits 'ternary', are stored as code + 1, five to a byte, the
first the digit of 1, then those of 3, 9, 27 and 81. Coding 'plain' is that
stream of bytes; 'huffman' is a zlib stream (RFC 1950) of it, made of literals
only, where that is smaller: codes are not uniform. How much it saves depends
on the weights, about a fifth of the codes if they are normally distributed.
With plain codes a 4-bit 15M classifier is 7.1 times smaller than in float,
because of its norms, biases and steps; it takes 6% of the codes saved to make
that 7.5.
"""

import hashlib
import json
import math
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..layers import LSQWeight
from ..layers.lsq import BITS, Bits, code_values, code_width, width_name
from .atomic import write_atomically
from .read import check_finite

FORMAT, VERSIONS = 'mmqsdt-packed', ('1', '2')
NEW_IN_2 = (1, 'ternary')
POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


@dataclass
class PackedSize:
    """Bytes of a packed file and of what it holds.

    Attributes:
        file (int): The file.
        codes (int): Codes x bits / 8; a ternary one has 1.6.
        rest (int): The unquantised rest, step sizes included.
        unpacked (int): The float state dict of the same model.
    """
    file: int
    codes: int
    rest: int
    unpacked: int

    @property
    def bound(self) -> int:
        """What plain coding cannot go below."""
        return self.codes + self.rest

    def __str__(self) -> str:
        bound = self.bound
        return (f'codes {self.codes:,} + rest {self.rest:,} = {bound:,} bytes;'
                f' file {self.file:,}, {self.file / bound:.3f} of that, '
                f'{self.unpacked / self.file:.2f} times smaller than the '
                f'{self.unpacked:,} bytes of the float weights')


def pack_codes(codes: Tensor, bits: Bits) -> bytes:
    """Integer codes to a stream of bits, or of trits; see above.

    Args:
        codes (Tensor): int8, any shape, of the values of such bits.
        bits (int | str): Width of a code.
    """
    values = code_values(bits)
    unsigned = codes.flatten().cpu().numpy().astype(np.int16)
    unsigned = ((unsigned - values[0]) // values.step).astype(np.uint8)
    if bits == 'ternary':
        unsigned = np.pad(unsigned, (0, -len(unsigned) % 5))
        return (unsigned.reshape(-1, 5) * POWERS).sum(
            1, dtype=np.uint8).tobytes()
    each = np.unpackbits(
        unsigned[:, None], axis=1, count=bits, bitorder='little')
    return np.packbits(each, bitorder='little').tobytes()


def unpack_codes(packed: bytes, bits: Bits, shape: tuple[int, ...]) -> Tensor:
    """Return the codes that :func:`pack_codes` was given, int8.

    Raises:
        ValueError: If a byte is none of five trits.
    """
    count, values = math.prod(shape), code_values(bits)
    data = np.frombuffer(packed, np.uint8)
    if bits == 'ternary':
        if len(data) and data.max() >= 3**5:
            raise ValueError(f'{data.max()} is no byte of five trits')
        unsigned = (data[:, None] // POWERS % 3).reshape(-1)[:count]
    else:
        each = np.unpackbits(data, count=count * bits, bitorder='little')
        unsigned = np.packbits(
            each.reshape(-1, bits), axis=1, bitorder='little')[:, 0]
    codes = unsigned.astype(np.int16) * values.step + values[0]
    return torch.from_numpy(codes.astype(np.int8)).reshape(shape)


def packed_size(bits: Bits, shape: tuple[int, ...]) -> int:
    """Bytes of so many packed codes."""
    count = math.prod(shape)
    return -(-count // 5) if bits == 'ternary' else -(-count * bits // 8)


def _huffman(data: bytes) -> bytes:
    """Deflate without matches: codes repeat by value, not in sequences."""
    coder = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def _huffman_decoded(data: bytes, size: int) -> bytes:
    """Decompress a result of known size.

    Raises:
        ValueError: If that is not what the data are.
    """
    # No Huffman code is shorter than a bit: a small file stays small.
    if size > 8 * len(data):
        raise ValueError(f'{len(data)} bytes cannot hold {size}')
    coder = zlib.decompressobj()
    try:
        decoded = coder.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(decoded) != size or not coder.eof or coder.unused_data:
        raise ValueError(f'{len(data)} bytes do not hold exactly {size}')
    return decoded


def _key(layer: str, entry: str) -> str:
    """Key of the state dict; the layer '' is the model itself."""
    return f'{layer}.{entry}' if layer else entry


def quantized_layers(model: nn.Module) -> dict[str, LSQWeight]:
    """Return the layers of a model that have integer codes, by path."""
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, LSQWeight) and module.bits is not None
    }


def latent_weight(codes: Tensor, step: Tensor) -> Tensor:
    """code * step: quantises back to exactly these codes.

    In float32 (code * s) / s differs from code by less than 2^-22 |code|,
    far below the 1/2 at which rounding would change.
    """
    return codes.to(step.dtype) * step.view(-1, *[1] * (codes.dim() - 1))


def pack(model: nn.Module,
         path: str,
         config: str = '',
         huffman: bool = True) -> PackedSize:
    """Write the weights of a model at their true width.

    Args:
        model (nn.Module): In float form, as trained.
        path (str): The .safetensors file.
        config (str): Text of its config, kept for people to read.
        huffman (bool): Huffman-code the codes of a layer where that is
            smaller; lossless. False keeps them plain, for readers without
            zlib. Defaults to True.

    Returns:
        PackedSize: What became of it.

    Raises:
        ValueError: If no weight is quantised, the codes of a layer would
            not come back (a weight that is not finite, a half-precision
            one), or the model is in integer or spike form.
        OSError: If the file cannot be written; an older one stays.
    """
    # Those of mmqsdt.deploy, which stands above this room.
    if any(getattr(m, 'is_folded', False) for m in model.modules()):
        raise ValueError('pack the float form: integer and spike form are '
                         'made from it again after loading')
    quantized = quantized_layers(model)
    if not quantized:
        raise ValueError('nothing to pack: no layer of this model has '
                         'quantised weights')
    tensors = {k: v.detach() for k, v in model.state_dict().items()}
    unpacked = sum(v.numel() * v.element_size() for v in tensors.values())
    layers, codes_size, codes_stored = {}, 0., 0
    for name, layer in quantized.items():
        codes = layer.integer_weight()
        step = layer.positive_step_size().detach()
        _check_restorable(name, layer, codes, step)
        packed, coding = pack_codes(codes, layer.bits), 'plain'
        if huffman and len(shorter := _huffman(packed)) < len(packed):
            packed, coding = shorter, 'huffman'
        layers[name] = dict(
            bits=layer.bits, shape=list(codes.shape), coding=coding)
        tensors[_key(name, 'weight')] = torch.frombuffer(
            bytearray(packed), dtype=torch.uint8)
        tensors[_key(name, 'step_size')] = step
        codes_size += codes.numel() * code_width(layer.bits) / 8
        codes_stored += len(packed)
    tensors = {k: v.cpu().contiguous().clone() for k, v in tensors.items()}
    metadata = dict(
        format=FORMAT,
        format_version=VERSIONS[
            any(layer['bits'] in NEW_IN_2 for layer in layers.values())],
        config=config,
        layers=json.dumps(layers, separators=(',', ':')))
    metadata['sha256'] = _checksum(tensors, metadata)
    write_atomically(path, save(tensors, metadata))
    stored = sum(v.numel() * v.element_size() for v in tensors.values())
    return PackedSize(
        file=Path(path).stat().st_size,
        codes=int(np.ceil(codes_size)),
        rest=stored - codes_stored,
        unpacked=unpacked)


def _check_restorable(name: str, layer: LSQWeight, codes: Tensor,
                      step: Tensor) -> None:
    if not (torch.isfinite(layer.weight).all() and torch.isfinite(step).all()):
        raise ValueError(f'{name}: weights or step sizes are not finite')
    ratio = latent_weight(codes, step) / step.view(-1, *[1] *
                                                   (codes.dim() - 1))
    if not torch.equal(ratio.round().to(torch.int8), codes):
        raise ValueError(f'{name}: code x step does not give the code back '
                         f'in {step.dtype}; pack the model in float32')


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for name in ('format', 'format_version', 'config', 'layers'):
        digest.update(f'{name}={metadata[name]}\n'.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f'{name} {value.dtype} {list(value.shape)}\n'.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def is_packed(path: str) -> bool:
    """Whether a file is a packed one, as far as its header tells."""
    if not (str(path).endswith('.safetensors') and Path(path).is_file()):
        return False
    try:
        with safe_open(path, 'pt') as file:
            return (file.metadata() or {}).get('format') == FORMAT
    except SafetensorError:
        return False


def read_packed(path: str) -> tuple[dict[str, Tensor], dict]:
    """Read and check a packed file. Nothing in it is ever executed.

    Args:
        path (str): The .safetensors file.

    Returns:
        tuple: A state dict, in which ``<layer>.weight`` holds integer codes
        (int8); and the metadata, its entry 'layers' as a dict.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no packed file, of another version, truncated,
            or altered.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no packed weights at {path}')
    tensors, metadata = _read_safetensors(path)
    if metadata.get('format') != FORMAT:
        raise ValueError(f'{path} is a .safetensors file, but not of packed '
                         'weights; tools/pack.py writes those')
    if metadata.get('format_version') not in VERSIONS:
        raise ValueError(f'{path} has format version '
                         f'{metadata.get("format_version")}, this mmqsdt '
                         f'reads versions {" and ".join(VERSIONS)}: take '
                         'the mmqsdt that wrote it, or a newer one')
    if not {'config', 'layers', 'sha256'} <= set(metadata) or \
            _checksum(tensors, metadata) != metadata['sha256']:
        raise ValueError(f'{path} was altered after it was packed: its '
                         'checksum does not match; copy or pack it again')
    # Whoever alters a file can also put in the checksum that fits.
    try:
        metadata['layers'] = json.loads(metadata['layers'])
        for name, layer in _items(metadata['layers']):
            tensors[_key(name, 'weight')] = _codes(name, layer, tensors)
    except (RecursionError, ValueError) as error:
        raise ValueError(f'{path} was not written by mmqsdt: {error}; pack '
                         'it again') from None
    return tensors, metadata


def _read_safetensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, 'pt') as file:
            return {name: file.get_tensor(name)
                    for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f'{path} is truncated, damaged or no .safetensors '
                         f'file: {error}; copy or pack it again') from None


def _items(layers: object) -> list[tuple[str, object]]:
    if not isinstance(layers, dict):
        raise ValueError('its list of layers is none')
    return list(layers.items())


def _codes(name: str, layer: object, tensors: dict[str, Tensor]) -> Tensor:
    """Check all that a file says of a layer, and decode its codes."""
    if not isinstance(layer, dict):
        layer = {}
    bits, shape = layer.get('bits'), layer.get('shape')
    if bits not in BITS or isinstance(bits, (bool, float)) or \
            not isinstance(shape, list) or not shape or not all(
                type(n) is int and n > 0 for n in shape):
        raise ValueError(f'layer {name} has bits {bits} and shape {shape}')
    packed = tensors.get(_key(name, 'weight'))
    if packed is None or packed.dtype != torch.uint8 or packed.dim() != 1:
        raise ValueError(f'layer {name} has no codes')
    step = tensors.get(_key(name, 'step_size'))
    if step is None or not step.is_floating_point() or \
            list(step.shape) != shape[:1] or \
            not (torch.isfinite(step) & (step > 0)).all():
        raise ValueError(f'layer {name} has no positive step sizes')
    data, size = packed.numpy().tobytes(), packed_size(bits, shape)
    if layer.get('coding') == 'huffman':
        data = _huffman_decoded(data, size)
    elif layer.get('coding') != 'plain':
        raise ValueError(f'layer {name} has coding {layer.get("coding")}')
    if len(data) != size:
        raise ValueError(f'layer {name} has {len(data)} bytes of codes, its '
                         f'shape {shape} takes {size}')
    return unpack_codes(data, bits, tuple(shape))


def unpacked(path: str) -> dict:
    """Read a packed file as a checkpoint, its codes as float weights.

    Args:
        path (str): See :func:`read_packed`.

    Returns:
        dict: With a ``state_dict`` that notes the bits of each layer.
    """
    tensors, metadata = read_packed(path)
    state_dict = OrderedDict(tensors)
    state_dict._metadata = OrderedDict(
        (name, dict(bits=layer['bits']))
        for name, layer in metadata['layers'].items())
    for name in metadata['layers']:
        weight, step = _key(name, 'weight'), _key(name, 'step_size')
        state_dict[weight] = latent_weight(state_dict[weight],
                                           state_dict[step])
    return dict(state_dict=state_dict)


def load_packed(model: nn.Module, path: str) -> None:
    """Load a packed file into a model, codes and step sizes bit by bit.

    The latent float weights become code * step, which quantises back to the
    same codes: outputs are those of the model that was packed.

    Args:
        model (nn.Module): In float form, built from the same config.
        path (str): See :func:`pack`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not intact, of another model, or has
            values that are not finite.
    """
    state_dict, metadata = read_packed(path)
    own = model.state_dict()
    mine = {
        name: _layer_text(layer.bits, layer.weight.shape)
        for name, layer in quantized_layers(model).items()
    }
    theirs = {
        name: _layer_text(layer['bits'], layer['shape'])
        for name, layer in metadata['layers'].items()
    }
    differences = _differences(theirs, mine, 'not quantised')
    differences += _differences(*({
        name: str(tuple(value.shape))
        for name, value in tensors.items()
    } for tensors in (state_dict, own)), 'absent')
    if differences:
        raise ValueError(
            f'{path} was packed from another model than this '
            f'{type(model).__name__} ({len(differences)} differences). '
            f'First: {differences[0]}')
    check_finite(path, state_dict, {k for k, _ in model.named_buffers()})
    for name in theirs:
        weight, step = _key(name, 'weight'), _key(name, 'step_size')
        state_dict[weight] = latent_weight(state_dict[weight],
                                           state_dict[step])
    model.load_state_dict(state_dict)
    print_log(f'{len(own)} of {len(own)} keys loaded from {path}, packed',
              logger='current')


def _layer_text(bits: Bits, shape: tuple[int, ...]) -> str:
    return f'{width_name(bits)}, shape {tuple(shape)}'


def _differences(theirs: dict[str, str], mine: dict[str, str],
                 none: str) -> list[str]:
    return [
        f'{name}: {theirs.get(name, none)} in the file, '
        f'{mine.get(name, none)} in the model'
        for name in dict.fromkeys([*theirs, *mine])
        if theirs.get(name) != mine.get(name)
    ]
