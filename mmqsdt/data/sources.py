"""Check that the data of a config are there, or say where to get them."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from ..utils.configs import tool_command

# part of a data root -> (name, where it comes from)
DATA_SOURCES = dict(
    digits=('the digits scenes',
            f'made on this machine: {tool_command("prepare_data")} digits'),
    coco=('COCO 2017', 'https://cocodataset.org/#download: train2017, '
          'val2017 and their annotations, unpacked side by side'),
    imagenet=('ImageNet-1k', 'https://image-net.org: train/ and val/ with a '
              'folder for each class'),
    ade=('ADE20K', 'https://groups.csail.mit.edu/vision/datasets/ADE20K: '
         'ADEChallengeData2016.zip'),
    cifar10=('CIFAR-10', 'https://www.cs.toronto.edu/~kriz/cifar.html: '
             'cifar-10-python.tar.gz, unpacked in data/cifar10'),
    cifar100=('CIFAR-100', 'https://www.cs.toronto.edu/~kriz/cifar.html: '
              'cifar-100-python.tar.gz, unpacked in data/cifar100'),
    cifar10dvs=('CIFAR10-DVS', 'https://figshare.com/articles/dataset/'
                'CIFAR10-DVS_New/4724671: the ten .zip files, as they are, in '
                'data/cifar10dvs/download'))
# Data sets that read a folder of a fixed name in their data_root.
FIXED_FOLDERS = dict(
    CIFAR10='cifar-10-batches-py', CIFAR100='cifar-100-python')
DEMOS = dict(
    mmpretrain='configs/cls/qsdt_digits.py',
    mmdet='configs/det/qsdt_maskrcnn_digits.py',
    mmseg='configs/seg/qsdt_fpn_digits.py')


def check_data(cfg: Config, parts: tuple[str, ...]) -> None:
    """Check that the data sets of a config are where it says.

    Args:
        cfg (Config): A config of any of the three frameworks.
        parts (tuple[str]): Of 'train', 'val', 'test'.

    Raises:
        FileNotFoundError: Names the missing files, where to get them, and
            a demo that runs without them.
    """
    missing = []
    for part in parts:
        loader = cfg.get(f'{part}_dataloader') or {}
        for dataset in leaf_datasets(loader.get('dataset')):
            missing += [p for p in dataset_paths(dataset) if not p.exists()]
        evaluators = cfg.get(f'{part}_evaluator') or []
        if isinstance(evaluators, dict):
            evaluators = [evaluators]
        missing += [
            Path(e['ann_file']) for e in evaluators
            if e.get('ann_file') and not Path(e['ann_file']).exists()
        ]
    if not missing:
        return
    missing = list(dict.fromkeys(map(str, missing)))
    text = ['The data set of this config is not there.']
    text += [f'  looked for: {path}' for path in missing]
    for part, (name, source) in DATA_SOURCES.items():
        if any(part in Path(path).parts for path in missing):
            text.append(f'  {name}: {source}')
            text.append('  it can also be a link: ln -s /where/it/is '
                        f'data/{part}')
            break
    else:
        text.append('  set data_root, ann_file and data_prefix of its '
                    'dataloaders to your data')
    demo = DEMOS.get(cfg.get('default_scope'))
    if demo and 'digits' not in missing[0]:
        text.append(f'  without it: {tool_command("prepare_data")} digits && '
                    f'{tool_command("train")} {demo}')
    raise FileNotFoundError('\n'.join(text))


def leaf_datasets(dataset: dict | None) -> Iterator[dict]:
    """Yield the data sets inside RepeatDataset, ConcatDataset and such."""
    if dataset is None:
        return
    inner = dataset.get('datasets') or [dataset.get('dataset')]
    if inner == [None]:
        yield dataset
    else:
        for each in inner:
            yield from leaf_datasets(each)


def dataset_paths(dataset: dict) -> list[Path]:
    """List the files and folders that a data set config will read."""
    root = dataset.get('data_root') or ''
    folder = FIXED_FOLDERS.get(str(dataset.get('type')).split('.')[-1])
    if folder:
        return [Path(root, dataset.get('data_prefix') or '', folder)]
    names = []
    if dataset.get('ann_file'):
        names.append(dataset['ann_file'])
    prefix = dataset.get('data_prefix') or {}
    if isinstance(prefix, str):
        prefix = dict(img=prefix)
    names += [p for p in prefix.values() if p]
    if not names and dataset.get('split'):  # ImageNet by split
        names.append(dataset['split'])
    if not names and root:
        names.append('')
    return [Path(root, name) for name in names]
