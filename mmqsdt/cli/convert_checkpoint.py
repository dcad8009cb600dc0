"""Convert a checkpoint of the QSD-Transformer authors to ours.

    python tools/convert_checkpoint.py THEIRS.pth OURS.pth [--backbone-only]
"""

from io import BytesIO

import torch

from ..checkpoints.atomic import write_atomically
from ..checkpoints.convert import convert_reference_checkpoint
from ..checkpoints.read import check_finite, load_state_dict
from .common import add_output, parse_output
from .ending import ToolParser, command


@command
def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument('src', help='their .pth (classifier or backbone)')
    add_output(parser, 'dst', 'where ours is written')
    parser.add_argument(
        '--backbone-only', action='store_true',
        help='drop the classification head and the prefix "backbone."')
    args = parse_output(parser, 'dst')
    theirs = load_state_dict(args.src)
    ours = convert_reference_checkpoint(theirs, args.backbone_only)
    check_finite(args.src, ours)
    content = BytesIO()
    torch.save(dict(state_dict=ours), content)
    write_atomically(args.dst, content.getbuffer())
    print(f'{len(theirs)} entries read, {len(ours)} written to {args.dst}, '
          f'{len(theirs) - len(ours)} dropped that their forward never reads'
          + (' or that belong to the head' if args.backbone_only else ''))
