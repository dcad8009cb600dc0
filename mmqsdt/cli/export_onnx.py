"""Write a trained model as an ONNX file, and check it on ONNX Runtime.

    python tools/export_onnx.py configs/cls/qsdt_digits.py \
        work_dirs/qsdt_digits digits.onnx
    python tools/export_onnx.py CONFIG CHECKPOINT OUT.onnx --form float
"""

import argparse
import json
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..data.classes import can_be_looked_at, dataset_meta
from ..data.sources import check_data, leaf_datasets
from ..utils.build import input_channels, load_batches
from .common import (
    add_output,
    add_overrides,
    load_config,
    load_model,
    parse_output,
)
from .ending import ToolParser, command

RECIPE = """run it:
    import onnxruntime
    session = onnxruntime.InferenceSession({path!r})
    {outputs} = session.run(None, {{'images': images}})"""


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        'checkpoint', help='path of the checkpoint or of packed weights, or '
        'a work dir (its latest)')
    add_output(parser, 'out', 'file to write, .onnx')
    parser.add_argument(
        '--form', choices=('integer', 'float'), default='integer',
        help='integer codes and counts, fused by ONNX Runtime; or float, as '
        'trained, also for an ANN counterpart; default: integer')
    parser.add_argument(
        '--part', choices=('whole', 'backbone'), default='whole',
        help='what becomes of the model; default: whole')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'),
        help='of the largest image that sums of attention have to be exact '
        'for, and of the random images to check with; default: the size of '
        "the config's test images, which then serve to check, or 224 224")
    parser.add_argument(
        '--static', action='store_true',
        help='only this size, and batches of one image, instead of any')
    parser.add_argument(
        '--opset', type=int, default=17, help='17 to 21; default: 17')
    parser.add_argument(
        '--normalise', action='store_true',
        help='put the normalization of the data preprocessor in front: '
        'images are then 0..255, in the order that the pipeline loads')
    add_overrides(parser)
    return parse_output(parser, 'out')


def load_images(cfg: Config, model: nn.Module,
                size: tuple[int, int] | None) -> tuple[Tensor, str]:
    """Images to check with, and what they are."""
    if size is None:
        try:
            check_data(cfg, ('test', ))
            batch = load_batches(cfg, 'test', 2)[0]
        except (FileNotFoundError, ValueError):
            size = 224, 224
        else:
            images = model.data_preprocessor(batch, False)['inputs'][:2]
            return images.float(), 'test images'
    return torch.randn(2, input_channels(model), *size), 'random images'


def picture_facts(cfg: Config) -> dict[str, str]:
    """Return how the test data resize a picture, and their classes."""
    facts = {}
    dataset = next(leaf_datasets(
        (cfg.get('test_dataloader') or {}).get('dataset')), None)
    if dataset is None:
        return facts
    steps = [
        {key: step[key] for key in ('type', 'scale', 'keep_ratio', 'edge',
                                    'crop_size', 'size') if key in step}
        for step in dataset.get('pipeline') or []
        if not step['type'].split('.')[-1].startswith(('Load', 'Pack'))]
    for step in steps:
        step['type'] = step['type'].split('.')[-1]
    facts['steps'] = json.dumps(steps)
    if can_be_looked_at(dataset):
        classes = dataset_meta(cfg).get('classes')
        if classes:
            facts['classes'] = json.dumps(list(classes))
    return facts


@command
def main() -> None:
    args = parse_args()
    from ..deploy.onnx_graph import (
        Options,
        check_destination,
        compare_onnx,
        executed_nodes,
        export_onnx,
        open_session,
    )
    check_destination(Path(args.out))
    options = dict(
        form=args.form, part=args.part, static=args.static,
        opset=args.opset, normalise=args.normalise)
    Options(**options, size=args.size or (224, 224))  # before any work
    cfg = load_config(args)
    model, checkpoint = load_model(cfg, args.checkpoint)
    images, what = load_images(cfg, model, args.size)
    if args.static:
        images = images[:1]
    options = Options(**options, size=tuple(images.shape[2:]))
    files = export_onnx(
        model, args.out, options,
        dict(config=Path(args.config).name,
             checkpoint=Path(checkpoint).name, **picture_facts(cfg)))
    report = compare_onnx(model, images, options)
    for file in files:
        print(f'written: {file}, {file.stat().st_size / 2**20:.1f} MiB, '
              f'{options.form} form, opset {options.opset}')
        session = open_session(file)
        for kind, tensors in (('in', session.get_inputs()),
                              ('out', session.get_outputs())):
            for tensor in tensors:
                shape = ', '.join(map(str, tensor.shape))
                print(f'  {kind:3}  {tensor.name}: ({shape})')
        nodes = executed_nodes(file)
        print(f'  ONNX Runtime runs {nodes.total()} nodes, of which '
              f'{nodes["QLinearConv"]} are QLinearConv and '
              f'{nodes["MatMulIntegerToFloat"]} MatMulIntegerToFloat')
    print(f'against PyTorch on {len(images)} {what}: '
          f'{report.flips} of {report.elements} spike counts differ, '
          f'outputs by {report.output_error:.1e} of their largest value')
    if report.first_flip:
        print(f'  first at {report.first_flip.name}, '
              f'{report.first_flip.flip_distance:.1e} from a threshold')
    facts = open_session(files[0]).get_modelmeta().custom_metadata_map
    print(f'images: {facts["input"]}')
    print(f'then: {facts["output"]}')
    names = [x.name for x in open_session(files[0]).get_outputs()]
    print(RECIPE.format(
        path=str(files[0]),
        outputs=f'{names[0]},' if len(names) == 1 else 'outputs'))
