"""Predict on pictures: drawings, and predictions.json beside them.

    python tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ --out DIR
"""

import argparse
import json
from pathlib import Path

from mmengine.config import DictAction
from mmengine.device import get_device

from ..checkpoints.atomic import write_text
from ..checkpoints.packing import is_packed
from ..checkpoints.read import reading_once
from ..data.saved import saved_classes, saved_meta
from ..deploy import ENCODINGS, FORMS, to_form
from ..engine.predict import (
    Predictor,
    find_others,
    find_pictures,
    predict_pictures,
)
from .common import load_config, load_model
from .ending import ToolParser, command


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config, or its name')
    parser.add_argument(
        'checkpoint', help='path of the checkpoint or of packed weights, or '
        'a work dir: its last')
    parser.add_argument(
        'pictures', nargs='+', help='files, or folders of pictures')
    parser.add_argument('--out', required=True, help='folder of the results')
    parser.add_argument(
        '--inference', choices=FORMS, default='float',
        help='form of the model: float as trained; integer codes and counts; '
        'fast, the same on integer kernels; or binary spikes. Default: float')
    parser.add_argument(
        '--encoding', choices=ENCODINGS, default=ENCODINGS[0],
        help='how --inference spikes carries a count; '
        f'default: {ENCODINGS[0]}')
    parser.add_argument(
        '--device', default=get_device(), help='default: %(default)s')
    parser.add_argument(
        '--score-thr', type=float, default=0.5,
        help='detections below it are not drawn; default: 0.5')
    parser.add_argument(
        '--max-side', type=int, default=2048,
        help='larger pictures are shrunk first, pixels; default: 2048')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction,
        help='override config entries: key=value')
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)
    return parser.parse_args()


def build_predictor(args: argparse.Namespace) -> Predictor:
    cfg = load_config(args)
    with reading_once():
        model, checkpoint = load_model(cfg, args.checkpoint)
        saved = None if '://' in checkpoint or is_packed(checkpoint) else \
            saved_classes(saved_meta(checkpoint))
    model = to_form(model, args.inference, args.encoding)
    return Predictor(cfg, model, args.device, args.score_thr, saved)


@command
def main() -> None:
    args = parse_args()
    out_dir = Path(args.out)
    if args.max_side < 1:
        raise ValueError(f'--max-side must be positive, got '
                         f'{args.max_side}')
    paths = find_pictures(args.pictures)
    if out_dir.resolve() in {p.resolve().parent for p in paths}:
        raise ValueError(f'--out {out_dir} is a folder of the pictures, '
                         'which drawings could replace; name another')
    out_dir.mkdir(parents=True, exist_ok=True)
    predictor = build_predictor(args)
    if others := find_others(args.pictures):
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
    """A few words on a result."""
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
