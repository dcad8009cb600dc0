"""Before a training only what is cheap is looked at, and once."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults import BASES, LENGTH, SHORT, change_labels
from mmengine.dataset import BaseDataset
from small_data import NUMBER

from mmqsdt.data.check import check_config, refuse_faults


@pytest.mark.parametrize('kind', BASES)
def test_a_training_reads_its_annotations_once(kind, configure, run_tool,
                                               tmp_path, monkeypatch):
    cfg = configure(kind)
    cfg.dump('my.py')
    seen = Counter()
    full_init = BaseDataset.full_init

    def count(dataset: BaseDataset) -> None:
        if not dataset._fully_initialized:
            seen['train' in f'{dataset.ann_file} {dataset.data_prefix}'] += 1
        full_init(dataset)

    for cls in (BaseDataset, *BaseDataset.__subclasses__()):
        if 'full_init' in vars(cls):
            monkeypatch.setattr(cls, 'full_init', count)
    run_tool('train.py', 'my.py', '--work-dir', 'work', '--cfg-options',
             *SHORT, f'train_cfg.{LENGTH[kind]}', 'train_cfg.val_interval=100')
    assert seen[True] == 1
    assert list((tmp_path / 'work').glob('*.pth'))


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Label maps that were decoded."""
    loading = pytest.importorskip('mmseg.datasets.transforms.loading')
    load, paths = loading.LoadAnnotations._load_seg_map, []

    def note(step: object, data: dict) -> None:
        paths.append(data['seg_map_path'])
        load(step, data)

    monkeypatch.setattr(loading.LoadAnnotations, '_load_seg_map', note)
    monkeypatch.setattr('mmqsdt.data.samples.LABEL_MAPS', 2)
    return paths


def test_a_few_label_maps_are_decoded(decoded, configure):
    cfg = configure('pairs')
    refuse_faults(cfg, ('train', 'val'))
    assert Counter(Path(path).parent.name for path in decoded) == dict(
        train=2, val=2)
    decoded.clear()
    check_config(cfg, ('train', 'val'))
    assert len(set(decoded)) == 2 * NUMBER


@pytest.mark.parametrize('change, words', [
    (lambda path: path.unlink(), 'image without label map'),
    (lambda path: path.write_bytes(path.read_bytes()[:80]), 'truncated'),
    (lambda path: path.write_bytes(b''), 'empty file'),
    (lambda path: change_labels(path, lambda a: a[:-1]), 'wrong size')])
def test_files_of_the_others_are_looked_at(change, words, decoded, configure,
                                           tmp_path):
    cfg = configure('pairs')
    change(tmp_path / 'pairs/labels/val/1.png')  # of 0 to 3, 0 and 2 are read
    with pytest.raises(ValueError, match=words):
        refuse_faults(cfg, ('val', ))


def test_values_of_the_others_end_the_evaluation(decoded, configure, run_tool,
                                                 tmp_path):
    configure('pairs').dump('my.py')
    change_labels(tmp_path / 'pairs/labels/val/1.png',
                  lambda a: np.where(a == 1, 7, a).astype(np.uint8))
    with pytest.raises(SystemExit, match='val/1.png: the label map has 7'):
        run_tool('train.py', 'my.py', '--work-dir', 'work', '--cfg-options',
                 *SHORT, 'train_cfg.max_iters=1', 'train_cfg.val_interval=1')
