"""Weights on disk at their true width: 2, 3, 4 or 8 bits a weight.

A packed file is a .safetensors file. Every LSQ layer has its codes there,
bit-packed, as ``<layer>.weight`` (uint8), and its ``<layer>.step_size``;
everything else is as in the state dict. The metadata:

- format, format_version: 'mmqsdt-packed', '1'
- config: text of the config, to be read by people; never executed
- layers: JSON, layer -> bits, shape, coding ('plain' or 'huffman')
- sha256: of all of the above and all tensors
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..layers import LSQWeight
from .fold import FoldedLayer

FORMAT, VERSION = 'mmqsdt-packed', '1'


@dataclass
class PackedSize:
    """Bytes of a packed file and of what it holds.

    Attributes:
        file (int): The file.
        codes (int): Codes x bits / 8.
        rest (int): The unquantised rest.
        unpacked (int): The same weights in float.
    """
    file: int
    codes: int
    rest: int
    unpacked: int

    def __str__(self) -> str:
        bound = self.codes + self.rest
        return (f'codes {self.codes:,} + rest {self.rest:,} = {bound:,} bytes;'
                f' file {self.file:,}, {self.file / bound:.3f} of that, '
                f'{self.unpacked / self.file:.2f} times smaller than the '
                f'{self.unpacked:,} bytes of the float weights')


def pack_codes(codes: Tensor, bits: int) -> bytes:
    """Integer codes to a stream of bits, the lowest bit first.

    Args:
        codes (Tensor): int8, any shape, -2^(bits-1) .. 2^(bits-1) - 1.
        bits (int): Width of a code.
    """
    unsigned = codes.flatten().cpu().numpy().astype(np.int16)
    unsigned = (unsigned + 2**(bits - 1)).astype(np.uint8)
    each = np.unpackbits(
        unsigned[:, None], axis=1, count=bits, bitorder='little')
    return np.packbits(each, bitorder='little').tobytes()


def unpack_codes(packed: bytes, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The codes that :func:`pack_codes` was given, int8, of this shape."""
    count = int(np.prod(shape))
    each = np.unpackbits(
        np.frombuffer(packed, np.uint8),
        count=count * bits,
        bitorder='little')
    unsigned = np.packbits(each.reshape(-1, bits), axis=1, bitorder='little')
    codes = unsigned[:, 0].astype(np.int16) - 2**(bits - 1)
    return torch.from_numpy(codes.astype(np.int8)).reshape(shape)


def _huffman(data: bytes) -> bytes:
    """Deflate without matches: codes repeat by value, not in sequences."""
    coder = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def quantized_layers(model: nn.Module) -> dict[str, LSQWeight]:
    """The layers of a model that have integer codes, by path."""
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, LSQWeight) and module.bits is not None
    }


def latent_weight(codes: Tensor, step: Tensor) -> Tensor:
    """code * step: quantises back to exactly these codes.

    In float32 (code * s) / s differs from code by less than 2^-22 |code|,
    far below the 1/2 at which rounding would change, and what exceeds the
    bounds is clamped to them.
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
        huffman (bool): Huffman-code the packed codes where that is smaller;
            lossless. Defaults to True.

    Returns:
        PackedSize: What became of it.

    Raises:
        ValueError: If no weight is quantised, one is not finite, or the
            model is in integer or spike form.
    """
    if any(isinstance(m, FoldedLayer) for m in model.modules()):
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
        if not torch.isfinite(layer.weight).all():
            raise ValueError(f'{name}.weight is not finite')
        codes = layer.integer_weight()
        step = layer.positive_step_size().detach()
        packed, coding = pack_codes(codes, layer.bits), 'plain'
        if huffman and len(shorter := _huffman(packed)) < len(packed):
            packed, coding = shorter, 'huffman'
        layers[name] = dict(
            bits=layer.bits, shape=list(codes.shape), coding=coding)
        tensors[f'{name}.weight'] = torch.frombuffer(
            bytearray(packed), dtype=torch.uint8)
        tensors[f'{name}.step_size'] = step
        codes_size += codes.numel() * layer.bits / 8
        codes_stored += len(packed)
    tensors = {k: v.cpu().contiguous().clone() for k, v in tensors.items()}
    metadata = dict(
        format=FORMAT,
        format_version=VERSION,
        config=config,
        layers=json.dumps(layers, separators=(',', ':')))
    metadata['sha256'] = _checksum(tensors, metadata)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
    stored = sum(v.numel() * v.element_size() for v in tensors.values())
    return PackedSize(
        file=Path(path).stat().st_size,
        codes=int(np.ceil(codes_size)),
        rest=stored - codes_stored,
        unpacked=unpacked)


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
        ValueError: If it is no packed file, of a newer version, truncated,
            or altered.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no packed weights at {path}')
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            if metadata.get('format') != FORMAT:
                raise ValueError(f'{path} is a .safetensors file, but not of '
                                 'packed weights; tools/pack.py writes those')
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f'{path} is truncated or damaged: {error}; copy or '
                         'pack it again') from None
    if metadata.get('format_version') != VERSION:
        raise ValueError(f'{path} has format version '
                         f'{metadata.get("format_version")}, this mmqsdt '
                         f'reads version {VERSION}: update mmqsdt')
    expected = {'config', 'layers', 'sha256'}
    if not expected <= set(metadata) or \
            _checksum(tensors, metadata) != metadata['sha256']:
        raise ValueError(f'{path} was altered after it was packed: its '
                         'checksum does not match; copy or pack it again')
    metadata['layers'] = json.loads(metadata['layers'])
    for name, layer in metadata['layers'].items():
        packed = tensors[f'{name}.weight'].numpy().tobytes()
        if layer['coding'] == 'huffman':
            packed = zlib.decompress(packed)
        tensors[f'{name}.weight'] = unpack_codes(packed, layer['bits'],
                                                 tuple(layer['shape']))
    return tensors, metadata


def load_packed(model: nn.Module, path: str) -> None:
    """Load a packed file into a model, codes and step sizes bit by bit.

    The latent float weights become code * step, which quantises back to the
    same codes: outputs are those of the model that was packed.

    Args:
        model (nn.Module): In float form, built from the same config.
        path (str): See :func:`pack`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not intact, or of another model.
    """
    state_dict, metadata = read_packed(path)
    own = model.state_dict()
    mine = {
        name: (layer.bits, tuple(layer.weight.shape))
        for name, layer in quantized_layers(model).items()
    }
    theirs = {
        name: (layer['bits'], tuple(layer['shape']))
        for name, layer in metadata['layers'].items()
    }
    differences = [
        f'layer {name}: {_layer_text(theirs.get(name))} in the file, '
        f'{_layer_text(mine.get(name))} in the model'
        for name in [*theirs, *mine] if theirs.get(name) != mine.get(name)
    ]
    for name in [*state_dict, *own]:
        shapes = [
            tuple(d[name].shape) if name in d else 'absent'
            for d in (state_dict, own)
        ]
        if shapes[0] != shapes[1]:
            differences.append(f'{name}: {shapes[0]} in the file, {shapes[1]} '
                               'in the model')
    if differences:
        raise ValueError(
            f'{path} was packed from another model than this '
            f'{type(model).__name__} ({len(dict.fromkeys(differences))} '
            f'differences). First: {differences[0]}')
    for name in theirs:
        state_dict[f'{name}.weight'] = latent_weight(
            state_dict[f'{name}.weight'], state_dict[f'{name}.step_size'])
    model.load_state_dict(state_dict)


def _layer_text(layer: tuple | None) -> str:
    return f'{layer[0]} bits, shape {layer[1]}' if layer else 'not quantised'
