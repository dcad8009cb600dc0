"""Label maps of an evaluation: no value that is no class."""

import torch
from mmengine.hooks import Hook

from ...registry import HOOKS


@HOOKS.register_module()
class LabelValuesHook(Hook):
    """Stop an evaluation of segmentation at a label that is no class.

    MMSegmentation's metric leaves such pixels out of the score, and nothing
    says so. Before an evaluation only some label maps are looked at.

    Args:
        ignore_index (int): Value of label maps that is no class and is not
            scored. Defaults to 255.

    Raises:
        ValueError: While it validates or tests; names the file.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index

    def after_val_iter(self, runner, batch_idx, data_batch=None,
                       outputs=None) -> None:
        """Look at the truth of a batch."""
        self._look(runner.val_dataloader.dataset.metainfo, outputs)

    def after_test_iter(self, runner, batch_idx, data_batch=None,
                        outputs=None) -> None:
        """Look at the truth of a batch."""
        self._look(runner.test_dataloader.dataset.metainfo, outputs)

    def _look(self, metainfo: dict, outputs: list | None) -> None:
        number = len(metainfo.get('classes') or ())
        for sample in outputs or () if number else ():
            if 'gt_sem_seg' not in sample:
                continue
            labels = sample.gt_sem_seg.data
            wrong = (labels >= number) & (labels != self.ignore_index)
            if wrong.any():
                found = torch.unique(labels[wrong])[:5].tolist()
                raise ValueError(
                    f'{sample.get("seg_map_path")}: the label map has '
                    f'{", ".join(map(str, found))} in {int(wrong.sum())} '
                    f'pixels, the last of {number} classes is {number - 1}. '
                    'Without them the score would be another one')
