"""An evaluation stops at labels that are no class."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData

from mmqsdt.engine.hooks import LabelValuesHook


def look(labels: list[int], ignored: int = 255, classes: int = 2) -> None:
    seg = pytest.importorskip('mmseg.structures')
    sample = seg.SegDataSample(metainfo=dict(seg_map_path='x/7.png'))
    if labels:
        sample.gt_sem_seg = PixelData(data=torch.tensor([[labels]]))
    dataset = SimpleNamespace(metainfo=dict(classes=('a', ) * classes))
    runner = SimpleNamespace(
        val_dataloader=SimpleNamespace(dataset=dataset),
        test_dataloader=SimpleNamespace(dataset=dataset))
    hook = LabelValuesHook(ignored)
    for part in (hook.after_val_iter, hook.after_test_iter):
        part(runner, 0, outputs=[sample])


@pytest.mark.parametrize('labels, ignored', [
    ([0, 1, 255], 255), ([0, 1, 2], 2), ([], 255)])
def test_classes_and_what_is_ignored(labels, ignored):
    look(labels, ignored)


@pytest.mark.parametrize('labels, ignored', [
    ([0, 1, 2, 255], 255), ([0, 1, 255], 2)])
def test_a_label_that_is_no_class(labels, ignored):
    other = 2 if ignored == 255 else 255
    with pytest.raises(ValueError, match=f'7.png: .* has {other} in 1 pix'):
        look(labels, ignored)


def test_without_classes_nothing_is_known():
    look([0, 9], classes=0)
