"""One HTML page of a training: curves, predictions, spikes, energy, bytes.

    python tools/report.py WORK_DIR [--out report.html]

The page has all its pictures inside, opens from the file system and is
readable on a phone.
"""

import argparse
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from torch import nn

from ..checkpoints.atomic import write_text
from ..checkpoints.fit import build_trained
from ..data.classes import dataset_meta
from ..data.sources import check_data
from ..deploy import compare_forms, to_form
from ..engine.hooks import DrawPredictionsHook
from ..measure.curves import choose_keys, read_run
from ..measure.curves_plot import plot_curves
from ..measure.energy import measure_energy
from ..measure.energy_plot import plot_energy
from ..measure.energy_report import ANN_BITS, QUOTE
from ..measure.energy_table import TITLES, notes
from ..measure.page import Page
from ..measure.paper_table import cells, paper_row
from ..measure.regions import fix_regions
from ..measure.seen import picture_seen, recorded_inputs
from ..measure.spike_maps import choose_maps, recorded_spike_maps
from ..measure.spikes_plot import plot_rates, plot_slots
from ..utils.build import load_batches
from ..utils.frameworks import check_framework
from .common import add_overrides, load_config, load_model
from .ending import ToolParser, command
from .energy import energy_costs

# Name -> form and encoding.
FORMS = {
    'integer': ('integer', 'thermometer'),
    'fast': ('fast', 'thermometer'),
    'spikes, thermometer': ('spikes', 'thermometer'),
    'spikes, bitwise': ('spikes', 'bitwise'),
}
PACKAGES = ('mmqsdt', 'torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv',
            'onedl-mmpretrain', 'onedl-mmdetection', 'onedl-mmsegmentation',
            'spikingjelly', 'numpy')


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        'run', metavar='WORK_DIR', help='of a training, with its config')
    parser.add_argument(
        '--config', help='default: the one in the work dir')
    parser.add_argument(
        '--checkpoint', help='default: the last of the work dir')
    parser.add_argument(
        '--images', type=int, default=16,
        help='test images for rates and energy; default: 16')
    parser.add_argument(
        '--pictures', type=int, default=6,
        help='predictions beside the truth; default: 6')
    parser.add_argument('--out', help='default: WORK_DIR/report.html')
    add_overrides(parser)
    return parser.parse_args()


def config_of(work_dir: Path) -> str:
    """Find the config that a training left in its work dir.

    Raises:
        FileNotFoundError: If there is no such folder, or no config in it.
    """
    if not work_dir.is_dir():
        raise FileNotFoundError(f'no work dir at {work_dir}')
    found = sorted(work_dir.glob('*.py'), key=lambda p: p.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f'{work_dir} has no config, which a training '
                                'leaves there; name it with --config')
    return str(found[-1])


@command
def main() -> None:
    args = parse_args()
    work_dir = Path(args.run)
    args.config = args.config or config_of(work_dir)
    args.work_dir = str(work_dir)
    cfg = load_config(args)
    costs = energy_costs(cfg)
    check_framework(cfg)
    check_data(cfg, ('test', ))
    model, checkpoint = load_model(cfg, args.checkpoint or str(work_dir))
    page = Page(f'{Path(args.config).stem}: {work_dir.resolve().name}')
    page.text(f'Checkpoint {Path(checkpoint).name}, mmqsdt '
              f'{version("mmqsdt")}', note=True)
    with TemporaryDirectory() as folder:
        stem = Path(folder)
        add(page, 'Training', add_curves, work_dir, stem)
        add(page, 'Predictions and the truth', add_predictions, cfg, model,
            args.pictures, stem)
        add(page, 'Spikes of a test picture', add_spikes, cfg, model, stem)
        if any(fix_regions(cfg)):
            model = build_trained(cfg, checkpoint)
        report = measure_energy(
            model, load_batches(cfg, 'test', args.images), costs)
        add(page, 'Firing rates', add_rates, report)
        add(page, 'Energy', add_energy, report, stem)
        add(page, 'Size and forms', add_size, cfg, model, report)
    add(page, 'Versions and config', add_versions, cfg)
    out = args.out or work_dir / 'report.html'
    write_text(out, str(page))
    print(f'written: {out}, {Path(out).stat().st_size / 2**20:.1f} MiB')


def add(page: Page, title: str, section: Callable, *args) -> None:
    """Make a section, or say why it is missing."""
    page.heading(title)
    try:
        section(page, *args)
    except (FileNotFoundError, ValueError) as error:
        page.text(f'Left out: {error}', note=True)
        print(f'{title}: left out, {error}')


def add_curves(page: Page, work_dir: Path, folder: Path) -> None:
    """Losses and scores."""
    runs = {work_dir.resolve().name: read_run(work_dir)}
    for run in runs.values():
        for name in choose_keys(runs):
            if name in run.scores and (values := run.scores[name].values):
                page.text(f'{name}: {values[-1]:.4g} at the end, '
                          f'{max(values):.4g} at best')
    picture, *_ = plot_curves(runs, choose_keys(runs), None,
                              folder / 'curves')
    page.picture(picture, 'losses and scores over the training')


@torch.no_grad()
def add_predictions(page: Page, cfg: Config, model: nn.Module, number: int,
                    folder: Path) -> None:
    """As the config's visualizer draws them."""
    visualizer = VISUALIZERS.build(dict(
        cfg.visualizer, name=f'report {folder.name}', vis_backends=None,
        save_dir=None))
    runner = SimpleNamespace(
        visualizer=visualizer, test_dataloader=SimpleNamespace(
            dataset=SimpleNamespace(metainfo=dataset_meta(cfg))))
    hook = DrawPredictionsHook(str(folder / 'pictures'), number)
    hook.before_test(runner)
    for i, batch in enumerate(load_batches(cfg, 'test', number)):
        hook.after_test_iter(runner, i, batch, model.test_step(batch))
    for path in sorted((folder / 'pictures').glob('*.png')):
        page.picture(path, f'truth and prediction of {path.stem}')


@torch.no_grad()
def add_spikes(page: Page, cfg: Config, model: nn.Module,
               folder: Path) -> None:
    """Slot by slot, and rates over the picture."""
    batch = load_batches(cfg, 'test', 1)[0]
    with recorded_inputs(model.backbone) as inputs, \
            recorded_spike_maps(model) as maps:
        model.test_step(batch)
    seen = picture_seen(model, inputs[0])
    for drawn, alt in (
            (plot_slots(seen, choose_maps(maps), 'thermometer', 'a picture',
                        folder / 'slots'), 'binary spikes, slot by slot'),
            (plot_rates(seen, maps, 'a picture', folder / 'rates'),
             'firing rate of every neuron')):
        page.picture(drawn[0], alt)


def add_rates(page: Page, report) -> None:
    """Of every neuron, and which carry next to nothing."""
    flagged = report.flagged()
    page.text(f'{len(flagged)} of {len(report.neurons)} neurons fire nearly '
              'always or hardly ever'
              + (': ' + ', '.join(flagged) if flagged else ''))
    rows = [['neuron', 'firing rate', 'not zero', '']]
    rows += [[path, f'{rate.rate:.1%}', f'{rate.share_nonzero:.1%}',
              flagged.get(path, '')]
             for path, rate in report.neurons.items()]
    page.table(rows, [i for i, row in enumerate(rows) if i and row[-1]])


def add_energy(page: Page, report, folder: Path) -> None:
    """Totals, the row to quote stressed."""
    totals = report.totals()
    ratios = {bits: report.ratios(bits) for bits in (32, *ANN_BITS)}
    rows = [['mJ an image', *totals, 'ANN / model', *(
        f'int{bits} ANN / model' for bits in ANN_BITS)]]
    for measure in report.measures:
        rows.append([
            TITLES[measure],
            *(f'{part[measure]:.3g}' for part in totals.values()),
            *(f'{each[measure]:.2f}' if measure in each else ''
              for each in ratios.values())])
    page.table(rows, [1 + report.measures.index(QUOTE)])
    for line in notes(report).splitlines():
        page.text(line.strip(), note=True)
    plot_energy(report, folder / 'energy.png')
    page.picture(folder / 'energy.png', 'energy by measure and by layer')


def add_size(page: Page, cfg: Config, model: nn.Module, report) -> None:
    """Write the line for a paper, and which forms compute the same."""
    head, line = cells([paper_row(Path(cfg.filename).stem, model, report)])
    page.table([['', ''], *([a, b] for a, b in zip(head, line))])
    batch = load_batches(cfg, 'test', 1)[0]
    batch = model.data_preprocessor(
        {name: values[:1] for name, values in batch.items()})
    batch['mode'] = 'tensor'
    rows = [['form', 'spike counts that differ from the float form']]
    for name, form in FORMS.items():
        found = compare_forms(model, to_form(model, *form), batch)
        rows.append([name, f'{found.flips:,} of {found.elements:,}'])
    page.table(rows)


def add_versions(page: Page, cfg: Config) -> None:
    """Say on which machine it ran."""
    rows = [['package', 'version']]
    for name in PACKAGES:
        try:
            rows.append([name, version(name)])
        except PackageNotFoundError:
            continue
    page.table(rows)
    page.folded('Config', cfg.pretty_text)
