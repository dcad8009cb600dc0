"""Predict on pictures: drawings, and predictions.json beside them.

    python tools/predict.py det/qsdt_maskrcnn_digits scene.jpg
    python tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ --out DIR
"""

import argparse
import json
from pathlib import Path

from ..checkpoints.atomic import write_text
from ..checkpoints.resume import find_checkpoint, find_checkpoints
from ..deploy import ENCODINGS, FORMS
from ..engine.load import build_predictor
from ..engine.predict import find_others, find_pictures, predict_pictures
from ..engine.quiet import quiet
from ..utils.shipped import shipped_weights
from .common import add_overrides, load_config
from .ending import ToolParser, command

WEIGHTS = ('.pth', '.pt', '.ckpt', '.safetensors')


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config, or its name')
    parser.add_argument(
        'paths', nargs='+', metavar='[checkpoint] pictures',
        help='a checkpoint, packed weights or a work dir, unless the weights '
        'that ship with the config are to be taken; then pictures, or '
        'folders of them')
    parser.add_argument(
        '--out', default='predictions',
        help='folder of the results; default: %(default)s')
    parser.add_argument(
        '--inference', choices=FORMS, default='float',
        help='form of the model: float as trained; integer codes and counts; '
        'fast, the same on integer kernels; or binary spikes. Default: float')
    parser.add_argument(
        '--encoding', choices=ENCODINGS, default=ENCODINGS[0],
        help='how --inference spikes carries a count; '
        f'default: {ENCODINGS[0]}')
    parser.add_argument(
        '--device', help='such as cuda:0; default: the best there is')
    parser.add_argument(
        '--score-thr', type=float, default=0.5,
        help='detections below it are not drawn; default: 0.5')
    parser.add_argument(
        '--max-side', type=int, default=2048,
        help='larger pictures are shrunk first, pixels; default: 2048')
    add_overrides(parser)
    return parser.parse_args()


def is_checkpoint(path: str, others: bool) -> bool:
    """Return whether a path is no picture, nor a folder of them."""
    if not Path(path).is_dir():
        return '://' in path or path.endswith(WEIGHTS)
    # An empty work dir: what is wrong with it is said where it is read.
    return bool(find_checkpoints(path)) or others and not any(
        each.is_file() for each in Path(path).iterdir())


def split_paths(paths: list[str]) -> tuple[str | None, list[str]]:
    """Tell the checkpoint from the pictures among the paths.

    Raises:
        ValueError: If no picture is named.
    """
    first, *others = paths
    if not is_checkpoint(first, bool(others)):
        return None, paths
    if not others:
        raise ValueError(f'{first} is a checkpoint; name pictures, or '
                         'folders of them, as well')
    return first, others


@command
def main() -> None:
    args = parse_args()
    out_dir = Path(args.out)
    if args.max_side < 1:
        raise ValueError(f'--max-side must be positive, got '
                         f'{args.max_side}')
    checkpoint, pictures = split_paths(args.paths)
    paths = find_pictures(pictures)
    if out_dir.resolve() in {p.resolve().parent for p in paths}:
        raise ValueError(f'--out {out_dir} is a folder of the pictures, '
                         'which drawings could replace; name another')
    checkpoint = find_checkpoint(
        checkpoint or str(shipped_weights(args.config).path))
    out_dir.mkdir(parents=True, exist_ok=True)
    with quiet():
        predictor = build_predictor(
            load_config(args), checkpoint, args.inference, args.encoding,
            args.device, args.score_thr)
    if others := find_others(pictures):
        print('left out, not of a known kind:', *others[:5],
              *([f'and {len(others) - 5} more'] if others[5:] else []))
    results = []
    try:
        for result in predict_pictures(predictor, paths, out_dir,
                                       args.max_side):
            results.append(result)
            print(result['file'], summary(result, args.score_thr), sep=': ')
    finally:  # what is done is kept, whatever happens
        write_text(out_dir / 'predictions.json',
                   json.dumps(results, indent=1) + '\n')
    print(f'written: {out_dir}/predictions.json and drawings')
    if any('error' in result for result in results):
        raise SystemExit(1)


def summary(result: dict, score_thr: float) -> str:
    """Summarize a result in a few words."""
    if 'error' in result:
        return f'NO RESULT, {result["error"]}'
    if 'instances' in result:
        scores = [each['score'] for each in result['instances']]
        drawn = sum(score > score_thr for score in scores)
        return f'{drawn} instances drawn, {len(scores)} in predictions.json'
    best = result['classes'][0]
    name = best.get('name', best['label'])
    if 'score' in best:
        return f'{name} {best["score"]:.3f}'
    return ', '.join(f'{c.get("name", c["label"])} {c["share"]:.0%}'
                     for c in result['classes'][:3])
