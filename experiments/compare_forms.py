"""Compare the forms of a trained model: score, flips, time and bytes.

    python tools/compare_forms.py CONFIG CHECKPOINT [--page docs/spikes.md]
"""

import argparse
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn

from mmqsdt.checkpoints.fit import load_for_test
from mmqsdt.checkpoints.packing import pack
from mmqsdt.checkpoints.resume import find_checkpoint
from mmqsdt.cli.common import add_common_arguments, load_config, use_double
from mmqsdt.cli.ending import ToolParser, command
from mmqsdt.data.sources import check_data
from mmqsdt.deploy import compare_forms, to_form
from mmqsdt.utils.build import load_batches
from mmqsdt.utils.frameworks import check_framework
from mmqsdt.utils.tables import to_markdown

from .benchmark import alternate
from .markdown import write_table
from .seeds import METRICS

# Name in tables -> form and encoding. The others are compared with the first.
FORMS = dict(
    float=('float', 'thermometer'),
    integer=('integer', 'thermometer'),
    fast=('fast', 'thermometer'),
    thermometer=('spikes', 'thermometer'),
    bitwise=('spikes', 'bitwise'))
# Forms that compute in float64 too.
EXACT = ('integer', 'thermometer', 'bitwise')
ROUNDS = 5


@dataclass
class FormScore:
    """What was measured of one form.

    Attributes:
        name (str): Key of ``FORMS``.
        scores (dict[str, float]): Of the test data, as the config's metric
            names them.
        double_scores (dict[str, float]): The same in float64, if measured.
        flips (dict[str, int]): Counts that differ from the float form's, by
            'float32' and 'float64'.
        arisen (int): Flips in float32 that no other flip led to.
        distance (float): Largest distance of their potentials to a
            threshold.
        counts (int): How many were compared.
        seconds (list[float]): Processor time of one image, one thread, in
            turn with the other forms.
        bytes (int): Of the weights: the float state dict, or the packed file
            that all other forms are made from.
    """
    name: str
    scores: dict[str, float] = field(default_factory=dict)
    double_scores: dict[str, float] = field(default_factory=dict)
    flips: dict[str, int] = field(default_factory=dict)
    arisen: int = 0
    distance: float = 0.
    counts: int = 0
    seconds: list[float] = field(default_factory=list)
    bytes: int = 0

    def flips_text(self, kind: str) -> str:
        """Say how many counts flipped, in 'float32' or in 'float64'."""
        if kind not in self.flips:
            return '-'
        text = f'{self.flips[kind]:,} of {self.counts:,}'
        if self.flips[kind] and kind == 'float32':
            text += f', from {self.arisen:,} within {self.distance:.0e}'
        return text


def measure_forms(cfg: Config, checkpoint: str, images: int,
                  double: bool = False) -> list[FormScore]:
    """Test a trained model in every form.

    Args:
        cfg (Config): Of any of the three frameworks.
        checkpoint (str): Its weights.
        images (int): Test images to compare spikes on, one at a time, up to
            the raw outputs.
        double (bool): Whether to test in float64 too. Defaults to False.

    Returns:
        list[FormScore]: One for each of ``FORMS``.
    """
    runner = Runner.from_cfg(cfg)
    model = runner.model
    load_for_test(model, checkpoint)
    found = [FormScore(name) for name in FORMS]
    weights = count_bytes(cfg, model)
    batches = load_batches(cfg, 'test', images)
    measure_times(found, model, batches[0])
    for each in found:
        each.bytes = weights['float' if each.name == 'float' else 'packed']
        if each.name != 'float':
            count_flips(each, model, batches)
        each.scores = test(runner, to_form(model, *FORMS[each.name]))
    if double:
        use_double(model)
        for each in found:
            if each.name == 'float' or each.name in EXACT:
                each.double_scores = test(
                    runner, to_form(model, *FORMS[each.name]))
    return found


def test(runner: Runner, model: nn.Module) -> dict[str, float]:
    """Return the main scores of a model on the runner's test data."""
    runner.model = model
    return {name: float(score) for name, score in runner.test().items()
            if name in METRICS}


def count_bytes(cfg: Config, model: nn.Module) -> dict[str, int]:
    """Count the bytes of the state dict, and of the packed file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'packed.safetensors')
        pack(model, str(path))
        packed = path.stat().st_size
    return dict(
        float=sum(x.numel() * x.element_size()
                  for x in model.state_dict().values()),
        packed=packed)


@torch.no_grad()
def measure_times(found: list[FormScore], model: nn.Module,
                  batch: dict) -> None:
    """Measure the processor time of a prediction on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    batch = {name: values[:1] for name, values in batch.items()}

    def runner_of(name: str) -> Callable:
        form = to_form(model, *FORMS[name]).eval()
        return lambda: form.test_step(deepcopy(batch))

    seconds = alternate({each.name: runner_of(each.name) for each in found},
                        ROUNDS, 1, 'cpu')
    torch.set_num_threads(threads)
    for each in found:
        each.seconds = seconds[each.name]


@torch.no_grad()
def count_flips(found: FormScore, model: nn.Module, batches: list) -> None:
    """Compare every spike of the images with those of the float form."""
    for kind in ('float32', 'float64') if found.name in EXACT else (
            'float32', ):
        reference = deepcopy(model).eval()
        if kind == 'float64':
            reference.double()
        other = to_form(reference, *FORMS[found.name])
        found.flips[kind] = found.counts = 0
        for batch in batches:
            for i in range(len(batch['inputs'])):
                image = {name: values[i:i + 1]
                         for name, values in batch.items()}
                image = reference.data_preprocessor(deepcopy(image))
                if kind == 'float64':
                    image['inputs'] = image['inputs'].double()
                image['mode'] = 'tensor'
                report = compare_forms(reference, other, image)
                found.flips[kind] += report.flips
                found.counts += report.elements
                if kind == 'float32' and report.flips:
                    report = compare_forms(
                        reference, other, image, isolate=True)
                    found.arisen += report.flips
                    found.distance = max(
                        found.distance,
                        *(n.flip_distance for n in report.neurons))


def forms_table(found: list[FormScore], images: int) -> str:
    """Make the table in Markdown."""
    names = [METRICS[key] for key in found[0].scores]
    double = bool(found[0].double_scores)
    heads = ['form', *(title for title, _ in names)]
    if double:
        heads += [f'{title}, float64' for title, _ in names]
    heads += ['flips, float32', 'flips, float64',
              'time of an image over float', 'bytes of weights']
    lines = []
    time = float(np.median(found[0].seconds))
    for each in found:
        cells = [each.name, *formatted(each.scores)]
        if double:
            cells += formatted(each.double_scores) or ['-'] * len(names)
        cells += [each.flips_text(kind) for kind in ('float32', 'float64')]
        cells += [f'{np.median(each.seconds) / time:.2f}',
                  f'{each.bytes:,}']
        lines.append(cells)
    return (f'{to_markdown(heads, lines)}\n\n'
            f'Spikes compared on {images} test images; "from" counts '
            'the flips that no other led to, "within" is their '
            'largest distance to a threshold.\n')


def formatted(scores: dict[str, float]) -> list[str]:
    """Format a score with the digits of its metric."""
    return [f'{score:.{METRICS[key][1]}f}' for key, score in scores.items()]


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='checkpoint, packed weights or '
                        'work dir')
    parser.add_argument(
        '--images', type=int, default=4,
        help='test images to compare every spike on; default: 4')
    parser.add_argument(
        '--double', action='store_true', help='test in float64 too')
    parser.add_argument(
        '--page', type=Path, help='.md file to put the table into, between '
        'its marks of the name of the config')
    add_common_arguments(parser)
    return parser.parse_args()


@command
def main() -> None:
    args = parse_args()
    if args.images < 1:
        raise ValueError(f'--images must be at least 1, got {args.images}')
    cfg = load_config(args)
    check_framework(cfg)
    check_data(cfg, ('test', ))
    checkpoint = find_checkpoint(args.checkpoint)
    cfg.load_from, cfg.resume = None, False
    cfg.work_dir = str(Path(cfg.work_dir, 'forms'))
    MMLogger.get_current_instance().setLevel('WARNING')
    found = measure_forms(cfg, checkpoint, args.images, args.double)
    table = forms_table(found, args.images)
    if args.page:
        write_table(table, args.page, Path(args.config).stem)
    print(table)


if __name__ == '__main__':
    main()
