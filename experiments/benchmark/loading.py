"""How fast the training data come, by decode back end and worker processes."""

import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmqsdt.cli.smoke import DIGITS
from mmqsdt.data import prepare_digits
from mmqsdt.utils.configs import get_config_path

from .report import Benchmark

# Side of the JPEGs in pixels, about what ImageNet, COCO and ADE20K have.
IMAGE_SIZE = dict(mmpretrain=448, mmdet=544, mmseg=512)
IMAGES = 64
BATCH = 16
BACKENDS = ('cv2', 'pillow', 'turbojpeg')


def stand_in(cfg: Config, folder: Path) -> dict:
    """Write scenes of digits as JPEGs of the size that the config loads.

    Returns:
        dict: A training data set with the config's pipeline.
    """
    scope = cfg.default_scope
    prepare_digits(folder, IMAGE_SIZE[scope], IMAGES, 1, progress=False)
    pipeline = deepcopy(cfg.train_dataloader.dataset.pipeline)
    if scope == 'mmpretrain':
        return dict(
            type='CustomDataset', data_prefix=str(folder / 'det'),
            ann_file='', with_label=False, pipeline=pipeline)
    digits = Config.fromfile(get_config_path(DIGITS[scope]))
    dataset = digits.train_dataloader.dataset.to_dict()
    dataset['data_root'] = str(folder / ('det' if scope == 'mmdet' else 'seg'))
    return dict(dataset, pipeline=pipeline)


def images_per_second(dataset: dict, backend: str, workers: int) -> float:
    """Of one pass over the data, worker processes started before."""
    dataset = deepcopy(dataset)
    for step in dataset['pipeline']:
        if step['type'] == 'LoadImageFromFile':
            step['imdecode_backend'] = backend
    loader = Runner.build_dataloader(dict(
        batch_size=BATCH,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=dict(type='pseudo_collate'),
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dataset))
    seconds = []
    for _ in range(2):  # the first pass starts the workers, warms caches
        start, count = time.perf_counter(), 0
        for batch in loader:
            count += len(batch['inputs'])
        seconds.append(time.perf_counter() - start)
    return count / seconds[-1]


def check_loading(cfg: Config) -> None:
    """Refuse configs whose data are no images.

    Raises:
        ValueError: Says so.
    """
    dataset = cfg.get('train_dataloader', {}).get('dataset', {})
    steps = [step['type'] for step in dataset.get('pipeline', [])]
    if cfg.get('default_scope') not in DIGITS or \
            'LoadImageFromFile' not in steps:
        raise ValueError('--loading measures configs whose training pipeline '
                         'begins with LoadImageFromFile')


def measure_loading(report: Benchmark, cfg: Config,
                    workers: Sequence[int] = (0, 1, 2)) -> None:
    """Images a second of the config's training pipeline, on real JPEGs.

    Data sets of the config are not needed: the pictures are scenes of digits
    on photographs, about as large as those of ImageNet, COCO or ADE20K.

    Raises:
        ValueError: As :func:`check_loading`.
    """
    check_loading(cfg)
    init_default_scope(cfg.default_scope)
    with tempfile.TemporaryDirectory() as folder:
        dataset = stand_in(cfg, Path(folder, 'digits'))
        for backend in BACKENDS:
            if backend == 'turbojpeg' and not find_spec('turbojpeg'):
                continue
            for number in workers:
                report.loading.append(dict(
                    backend=backend, workers=number,
                    images_per_second=images_per_second(
                        dataset, backend, number)))
