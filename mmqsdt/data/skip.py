"""Train without the samples that cannot be read.

A broken sample is left out, counted and named, and another takes its place.
Nothing is left out of evaluation data, see ``check.refuse_faults``.
"""

import logging
import math

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS as MMENGINE_DATASETS

from ..registry import DATASETS
from ..utils.text import describe
from .classes import take_read
from .questions import CHECK, ignored_label

MAX_TRIES = 10  # stand-ins for one sample; if all fail, no file is to blame
TYPE = 'mmqsdt.SkipBroken'


@DATASETS.register_module()
class SkipBroken:
    """A wrapper that leaves out samples that cannot be loaded.

    If the data set raises an error, the path of the sample and the reason are
    logged once, and another sample is taken. Which one depends only on the
    index of the broken one, so a resumed or repeated run sees the same. The
    same holds for samples with labels outside the classes (an index error on
    the CPU, a device-side assertion on CUDA) and for boxes without area, whose
    regression targets are infinite.

    Length, metainfo, get_data_info, get_cat_ids and pipeline are those of the
    wrapped data set.

    If data sets are joined, repeated or mixed, the innermost ones are wrapped
    as well: of the four images of a mosaic, only the file that failed is
    named.

    Args:
        dataset (dict | BaseDataset): What to wrap.
        max_skipped (float): Largest share of all samples, rounded up; more
            is an error that names the last reason. Counted over all workers
            of a process. Defaults to 0.01.
        ignore_index (int, optional): Value of label maps that is no class.
            Defaults to 255.

    Raises:
        ValueError: If the data set has no sample, or max_skipped is not in
            0..1.
    """

    def __init__(self,
                 dataset: dict | BaseDataset,
                 max_skipped: float = 0.01,
                 ignore_index: int | None = 255) -> None:
        if not 0 <= max_skipped <= 1:
            raise ValueError('max_skipped is a share, 0 to 1, got '
                             f'{max_skipped}')
        if isinstance(dataset, dict):
            options = dict(
                max_skipped=max_skipped, ignore_index=ignore_index)
            dataset = _build(wrap_innermost(dataset, options, outermost=True))
        self.dataset = dataset
        self.max_skipped = max_skipped
        self.ignore_index = ignore_index
        # Shared by the worker processes of a loader, forked or spawned.
        self.skipped = torch.zeros(len(dataset), dtype=torch.bool)
        self.skipped.share_memory_()

    def __getattr__(self, name: str) -> object:
        if name == 'dataset':  # unpickling asks before it is set
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @property
    def pipeline(self) -> object:
        """The wrapped data set's, which hooks may replace."""
        return self.dataset.pipeline

    @pipeline.setter
    def pipeline(self, value: object) -> None:
        self.dataset.pipeline = value

    @property
    def metainfo(self) -> dict:
        """The wrapped data set's."""
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        """Return the sample, or the one that stands in for it.

        Raises:
            RuntimeError: If too many samples are broken, or ten in a row.
        """
        candidates = np.random.default_rng(index).integers(
            len(self), size=MAX_TRIES - 1)
        for candidate in (index, *map(int, candidates)):
            try:
                sample = self.dataset[candidate]
                check_sample(sample, self._classes(), self.ignore_index)
                return sample
            except Exception as error:  # decoders raise what they please
                self._note(candidate, error)
                last = error
        raise RuntimeError(
            f'{MAX_TRIES} samples in a row cannot be loaded, the last '
            f'because of: {describe(last)}. Look at the pipeline and at '
            f'{CHECK}') from last

    def _classes(self) -> tuple[str, ...] | None:
        meta = self.metainfo
        if isinstance(meta, list):  # of data sets that are joined
            meta = meta[0]
        return meta.get('classes')

    def _path(self, index: int) -> str:
        """Name a sample; a mixed one comes from several files."""
        if isinstance(self.dataset, BaseDataset):
            return self.dataset.get_data_info(index).get('img_path', '')
        return f'a sample of {type(self.dataset).__name__}'

    def _note(self, index: int, error: Exception) -> None:
        if self.skipped[index]:
            return
        self.skipped[index] = True
        number, allowed = int(self.skipped.sum()), math.ceil(
            self.max_skipped * len(self))
        path = self._path(index)
        # As an error, because loggers of other ranks drop warnings.
        print_log(
            f'left out of training, {number} of {len(self)}: {path} (index '
            f'{index}): {describe(error)}', 'current', logging.ERROR)
        if number > allowed:
            raise RuntimeError(
                f'{number} of {len(self)} training samples cannot be loaded, '
                f'more than max_skipped = {self.max_skipped} allows; the '
                f'last: {path}: {describe(error)}. Look at all of them: '
                f'{CHECK}') from error


def wrap_innermost(dataset: dict, options: dict,
                   outermost: bool = False) -> dict:
    """Wrap the data sets inside of joined, repeated and mixed ones.

    Args:
        dataset (dict): Config of a data set.
        options (dict): Of the wrapper.
        outermost (bool): It is wrapped already. Defaults to False.
    """
    for key in ('dataset', 'datasets'):
        inner = dataset.get(key)
        if isinstance(inner, dict):
            return dict(dataset, **{key: wrap_innermost(inner, options)})
        if isinstance(inner, (list, tuple)):
            return dict(dataset, **{key: [
                wrap_innermost(each, options) if isinstance(each, dict)
                else each for each in inner]})
    if outermost or dataset.get('type') in (TYPE, SkipBroken):
        return dataset
    return dict(type=TYPE, dataset=dataset, **options)


def _build(dataset: dict) -> BaseDataset:
    made = take_read(dataset)
    if made is not None:
        return made
    name = f'{dataset["type"]} {dataset.get("data_root") or ""}'.strip()
    try:
        return MMENGINE_DATASETS.build(dataset)
    except (ImportError, OSError):
        raise  # these say what is missing
    except Exception as error:
        reason = describe(error)
        if 'at least one array' in reason:  # NumPy, of an empty list
            reason = 'no sample is left. Do the classes of metainfo have ' \
                'the names that the annotations have, are all images ' \
                'smaller than min_size, or without annotations?'
        raise ValueError(f'training data, {name}: {reason} What is wrong '
                         f'with them: {CHECK}') from error


def check_sample(sample: dict, classes: tuple[str, ...] | None,
                 ignore_index: int | None = 255) -> None:
    """Refuse labels outside the classes, and boxes without area.

    Args:
        sample (dict): What the pipelines of the three frameworks pack.
        classes (tuple[str], optional): None checks no label.
        ignore_index (int, optional): Value of label maps that is no class.
            Defaults to 255.

    Raises:
        ValueError: Says which value is wrong.
    """
    truth = sample.get('data_samples') if isinstance(sample, dict) else None
    if truth is None:
        return
    number = None if classes is None else len(classes)
    if 'gt_sem_seg' in truth and number:
        labels = truth.gt_sem_seg.data
        if labels.shape != (1, *sample['inputs'].shape[-2:]):
            raise ValueError(f'a label map of shape {tuple(labels.shape)} '
                             'for an image of '
                             f'{tuple(sample["inputs"].shape)}')
        if ignore_index is not None:
            labels = torch.where(labels == ignore_index, 0, labels)
        highest = int(labels.max())
        if highest >= number:
            raise ValueError(f'the label map has class {highest}, the last '
                             f'of {number} classes is {number - 1}')
    if 'gt_label' in truth and number:
        labels = truth.gt_label
        if labels.numel() and not 0 <= int(labels.min()) <= \
                int(labels.max()) < number:
            raise ValueError(f'label {labels.tolist()} of {number} classes')
    if 'gt_instances' in truth and 'labels' in truth.gt_instances and number:
        labels = truth.gt_instances.labels
        if len(labels) and not 0 <= int(labels.min()) <= \
                int(labels.max()) < number:  # the next one is the background
            raise ValueError(f'a box has label {int(labels.max())}, the last '
                             f'of {number} classes is {number - 1}')
    if 'gt_instances' in truth and 'bboxes' in truth.gt_instances:
        boxes = truth.gt_instances.bboxes
        boxes = getattr(boxes, 'tensor', boxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        if not torch.isfinite(boxes).all() or (sides <= 0).any():
            raise ValueError('a box without area')


def skip_broken(cfg: Config, max_skipped: float = 0.01) -> None:
    """Make the training loader of a config leave out broken samples.

    Args:
        cfg (Config): Changed in place; a config that names
            ``mmqsdt.SkipBroken`` itself stays as it is.
        max_skipped (float): See SkipBroken. Defaults to 0.01.
    """
    loader = cfg.train_dataloader
    if loader.dataset.type != TYPE:
        loader.dataset = dict(
            type=TYPE, dataset=loader.dataset, max_skipped=max_skipped,
            ignore_index=ignored_label(cfg, 'train'))


def watch_labels(cfg: Config, part: str) -> None:
    """Have evaluations of segmentation stop at labels that are no class.

    Args:
        cfg (Config): Changed in place.
        part (str): 'val' or 'test', whose metric says what is ignored.
    """
    if cfg.get('default_scope') == 'mmseg':
        cfg.custom_hooks = [
            *(cfg.get('custom_hooks') or []),
            dict(type='mmqsdt.LabelValuesHook',
                 ignore_index=ignored_label(cfg, part))]
