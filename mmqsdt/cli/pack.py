"""Pack the weights of a trained model at their true width, or unpack them.

    python tools/pack.py CONFIG CHECKPOINT OUT.safetensors
    python tools/pack.py CONFIG PACKED.safetensors OUT.pth --unpack
"""

import argparse
from io import BytesIO

import torch

from ..checkpoints.atomic import write_atomically
from ..checkpoints.packing import load_packed, pack
from ..checkpoints.resume import find_checkpoint
from ..data.questions import ask
from ..utils.build import build_model
from ..utils.frameworks import check_framework
from .common import (
    add_output,
    add_overrides,
    load_config,
    load_model,
    parse_output,
)
from .ending import ToolParser, command


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        'src', help='path of the checkpoint, or a work dir (its latest); with '
        '--unpack: packed weights')
    add_output(parser, 'dst', 'file to write')
    parser.add_argument(
        '--unpack', action='store_true', help='packed weights to a .pth')
    parser.add_argument(
        '--no-huffman', dest='huffman', action='store_false',
        help='leave the bit-packed codes as they are, for readers without '
        'zlib')
    add_overrides(parser)
    return parse_output(parser, 'dst')


@command
def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    suffix = '.pth' if args.unpack else '.safetensors'
    if not args.dst.endswith(suffix):
        raise ValueError(f'the file to write must end in {suffix}, got '
                         f'{args.dst}')
    if args.unpack:
        check_framework(cfg)
        src = find_checkpoint(args.src)
        ask(cfg, ('test', ), src)
        model = build_model(cfg)
        load_packed(model, src)
        content = BytesIO()
        torch.save(dict(state_dict=model.state_dict()), content)
        write_atomically(args.dst, content.getbuffer())
    else:
        model, _ = load_model(cfg, args.src)
        print(pack(model, args.dst, cfg.pretty_text, args.huffman))
    print(f'written: {args.dst}')
