"""Recordings of event cameras, as frames over time.

SpikingJelly reads what the cameras recorded and adds its events up into
frames, once; the frames are kept beside the recordings.
"""

import math
from collections import defaultdict
from inspect import signature
from pathlib import Path

import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import barrier, is_main_process
from spikingjelly import datasets
from torchvision.datasets import DatasetFolder
from torchvision.datasets.utils import check_integrity

from ..registry import DATASETS

EVENT_DATASETS = ('CIFAR10DVS', 'DVS128Gesture', 'NCaltech101', 'NMNIST')
TRAIN_SHARE = 0.9  # of each class, where the authors gave no split


@DATASETS.register_module()
class EventFrames(BaseDataset):
    """A data set of SpikingJelly, for MMPretrain.

    The first use adds up the events, which takes minutes and disk space, and
    writes ``frames_number_<T>_split_by_<split_by>`` into data_root. Of
    several processes the first one does it and the others wait; data_root
    must be the same folder for all of them. Nothing is ever downloaded.

    Where the authors gave no split, the first nine tenths of each class, in
    the order of the file names, are for training and the rest for
    validation, as SpikingJelly's ``split_to_train_test_set`` has it.

    Args:
        name (str): SpikingJelly's class: 'CIFAR10DVS', 'DVS128Gesture',
            'NCaltech101' or 'NMNIST'.
        data_root (str): Folder with ``events_np`` as SpikingJelly makes it,
            or with the authors' archives in ``download``, to make it from.
        train (bool): The training or the validation part.
        frames_number (int): T, frames of a recording.
        split_by (str): Frames are of equal 'number' of events or of equal
            'time'. Defaults to 'number'.
        **kwargs: pipeline, metainfo, indices, test_mode and what else
            mmengine's BaseDataset takes.

    Shape: the pipeline is given 'img', (T, 2, H, W) float32, the number of
    events of each polarity at each pixel. Transforms of torchvision treat
    all frames alike.

    Raises:
        FileNotFoundError: If there is neither ``events_np`` nor all of the
            archives; names them and where they come from.
        ValueError: For names that are not among these, for arguments out of
            range, or if the recordings are too few to be split.

    Source: SpikingJelly (Science Advances 2023), ``spikingjelly.datasets``;
    the split of CIFAR10-DVS is that of Spikformer (arXiv 2209.15425).
    """

    def __init__(self,
                 name: str,
                 data_root: str,
                 train: bool,
                 frames_number: int,
                 split_by: str = 'number',
                 **kwargs) -> None:
        if name not in EVENT_DATASETS:
            raise ValueError(f'no event data set {name!r}; choose from '
                             f'{", ".join(EVENT_DATASETS)}')
        self.folder_type = getattr(datasets, name)
        self.train = train
        self.frames_number = frames_number
        self.split_by = split_by
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Path and label of every recording of this part."""
        check_recordings(self.folder_type, Path(self.data_root))
        if is_main_process():
            folder = self._open_folder()
        barrier()
        if not is_main_process():
            folder = self._open_folder()
        self.load_frames = folder.loader
        self._metainfo.setdefault('classes', tuple(folder.classes))
        samples = folder.samples
        if not self.has_split():
            train, val = split_by_class(folder.targets)
            samples = [samples[i] for i in (train if self.train else val)]
        if not samples:
            raise ValueError(
                f'{self.data_root} has too few recordings for a validation '
                'part; a class needs ten to leave one')
        return [dict(img_path=path, gt_label=label) for path, label in samples]

    def has_split(self) -> bool:
        """Whether the authors of the data set gave a split."""
        return 'train' in signature(self.folder_type).parameters

    def _open_folder(self) -> DatasetFolder:
        split = dict(train=self.train) if self.has_split() else {}
        return self.folder_type(
            self.data_root,
            data_type='frame',
            frames_number=self.frames_number,
            split_by=self.split_by,
            **split)

    def prepare_data(self, idx: int) -> dict:
        """Return the frames of a recording, through the pipeline."""
        info = self.get_data_info(idx)
        info['img'] = torch.from_numpy(self.load_frames(info['img_path']))
        return self.pipeline(info)


def check_recordings(dataset: type, root: Path) -> None:
    """Refuse to go on where SpikingJelly would start a download.

    Args:
        dataset (type): A class of ``spikingjelly.datasets``.
        root (Path): Its folder.

    Raises:
        FileNotFoundError: If there is neither ``events_np`` nor all of the
            archives, whole.
    """
    if (root / 'events_np').is_dir():
        return
    missing = [(name, url) for name, url, md5 in dataset.resource_url_md5()
               if not check_integrity(root / 'download' / name, md5)]
    if not missing:
        return
    text = [f'{root} holds no recordings of {dataset.__name__}: no events_np '
            'as SpikingJelly makes it, and of the archives in download, to '
            'make it from, these are missing or damaged:']
    text += [f'  {root / "download" / name}: {url}' for name, url in missing]
    raise FileNotFoundError('\n'.join(text))


def split_by_class(labels: list[int]) -> tuple[list[int], list[int]]:
    """Split each class into its first nine tenths and the rest (indices)."""
    members = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    train, val = [], []
    for _, indices in sorted(members.items()):
        first = math.ceil(TRAIN_SHARE * len(indices))
        train += indices[:first]
        val += indices[first:]
    return train, val
