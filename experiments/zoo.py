"""Pack the three trained digits models into the package.

    python tools/zoo.py [--work-dirs work_dirs] [--only cls/qsdt_digits]

Writes mmqsdt/weights, and into the metafiles bytes, hash and scores: on all
held-out pictures, and on a few that tests/test_shipped.py tries again.
"""

import hashlib
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config
from mmengine.runner import Runner

from mmqsdt.checkpoints import find_checkpoint, load_for_test, pack
from mmqsdt.checkpoints.atomic import write_text
from mmqsdt.cli.ending import ToolParser, command
from mmqsdt.data import prepare_digits
from mmqsdt.deploy import to_form
from mmqsdt.utils import build_model, check_framework, get_config_path
from mmqsdt.utils.shipped import FOLDER, SCHEME
from mmqsdt.utils.text import read_text

ROOT = Path(__file__).resolve().parents[1]
SCENES = 12  # held-out ones that the test tries
# Config -> task of its metafile, and metric of its test -> name.
MODELS = {
    'cls/qsdt_digits': (
        'Image Classification',
        {'accuracy/top1': 'Top 1 Accuracy'}),
    'det/qsdt_maskrcnn_digits': (
        'Object Detection and Instance Segmentation',
        {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP'}),
    'seg/qsdt_fpn_digits': (
        'Semantic Segmentation', {'mIoU': 'mIoU'}),
}


def measure(name: str, weights: str, form: str = 'float',
            work_dir: str = 'work_dirs/zoo') -> dict[str, float]:
    """Scores of weights on the held-out digits of this folder.

    Args:
        name (str): Of the config.
        weights (str): Checkpoint or packed weights.
        form (str): See :func:`mmqsdt.deploy.to_form`. Defaults to 'float'.
        work_dir (str): Of the log.
    """
    cfg = Config.fromfile(get_config_path(f'{name}.py'))
    check_framework(cfg)
    cfg.work_dir, cfg.load_from = work_dir, None
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    runner = Runner.from_cfg(cfg)
    load_for_test(runner.model, weights)
    runner.model = to_form(runner.model, form)
    scores = runner.test()
    return {title: float(f'{scores[key]:.4f}')
            for key, title in MODELS[name][1].items()}


def measure_part(name: str, weights: str, form: str = 'float'
                 ) -> dict[str, float]:
    """Scores on a few held-out scenes, made here; for digits, on all."""
    with TemporaryDirectory() as folder, chdir(folder):
        prepare_digits('data/digits', num_train=1, num_val=SCENES,
                       progress=False)
        return measure(name, weights, form)


def entry(text: str, name: str, size: int, sha256: str,
          scores: dict[str, float], part: dict[str, float]) -> str:
    """Return a metafile's text with what was found in a model's entry.

    Args:
        text (str): Of the metafile.
        name (str): Of the config.
        size (int): Bytes of the packed file.
        sha256 (str): Of it.
        scores (dict[str, float]): On all held-out pictures.
        part (dict[str, float]): On those of :func:`measure_part`.
    """
    stem = name.split('/')[1]
    blocks = text.split('\n\n')
    index = next(i for i, block in enumerate(blocks)
                 if f'  - Name: {stem}\n' in f'{block}\n')
    kept = []
    for line in blocks[index].rstrip('\n').splitlines():
        if line.startswith(('    Results:', '    Weights:')):
            break
        if not line.strip().startswith(('File Size', 'SHA256', 'Held Out')):
            kept.append(line)

    def figure(value: float, title: str) -> str:
        return f'{value:.{3 if title.endswith("AP") else 1}f}'

    kept += [f'      File Size (bytes): {size}', f'      SHA256: {sha256}',
             '      Held Out Part: {' + ', '.join(
                 f'{k}: {v}' for k, v in part.items()) + '}',
             f'    Weights: {SCHEME}{name}', '    Results:',
             f'      - Task: {MODELS[name][0]}', '        Dataset: Digits',
             '        Metrics:']
    kept += [f'          {k}: {figure(v, k)}' for k, v in scores.items()]
    blocks[index] = '\n'.join(kept)
    return '\n\n'.join(blocks).rstrip('\n') + '\n'


def ship(name: str, work_dirs: Path) -> None:
    """Pack a trained model, measure it and note it in its metafile."""
    cfg = Config.fromfile(get_config_path(f'{name}.py'))
    check_framework(cfg)
    model = build_model(cfg)
    load_for_test(model, find_checkpoint(
        str(work_dirs / name.split('/')[1])))
    path = FOLDER / f'{name}.safetensors'
    path.parent.mkdir(parents=True, exist_ok=True)
    size = pack(model, str(path), cfg.pretty_text)
    scores, part = measure(name, str(path)), measure_part(name, str(path))
    metafile = ROOT / 'configs' / name.split('/')[0] / 'metafile.yml'
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_text(metafile, entry(read_text(metafile), name, size.file, digest,
                               scores, part))
    print(f'{name}: {size.file:,} bytes, {scores}, of {SCENES} scenes {part}')


@command
def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs'),
                        help='where the trainings are; default: %(default)s')
    parser.add_argument('--only', nargs='+', choices=MODELS, default=[*MODELS],
                        help='these alone')
    args = parser.parse_args()
    for name in args.only:
        ship(name, args.work_dirs)
