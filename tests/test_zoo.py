"""Every config trains and is evaluated; the metafiles say what was built."""

import json
import pickle
import re
import shlex
from argparse import ArgumentParser
from functools import cache
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import METRICS, DefaultScope
from mmengine.structures import PixelData
from shared import run_tool
from test_configs import CONFIGS, ROOT, build, full_size, load
from test_geometry import geometry_faults
from torch import nn

from mmqsdt.checkpoints.read import read_checkpoint
from mmqsdt.layers import LSQWeight, SpikingNeuron

HOME = Path(__file__).parents[1]

# Those that have no digits, or other small data, to start with.
BIG = [c for c in CONFIGS if '_digits' not in c and 'dvs' not in c]

# Where only sizes differ, one step of the smallest network stands for all.
ARCH = dict(embed_dims=(16, 16, 24, 32), depths=(1, 1), num_heads=4)
TAPS = (8, *ARCH['embed_dims'])
WIDTH = 16
SIZES = dict(
    out_channels=WIDTH, feat_channels=WIDTH, conv_out_channels=WIDTH,
    channels=WIDTH, fc_out_channels=WIDTH, nms_pre=50, num=16,
    score_thr=0.)


def shrink(model: ConfigDict) -> ConfigDict:
    """The same network with all its widths, depths and samples reduced."""
    if model.backbone.type != 'mmqsdt.QSDTransformer':
        return model
    model.backbone.arch = ARCH
    taps = [TAPS[i] for i in model.backbone.get('out_indices', (4, ))]
    read = [WIDTH] * len(taps) if model.get('neck') else taps
    shrink_sizes(model)
    if 'size' in model.data_preprocessor:  # images are padded to it
        model.data_preprocessor.size = (64, 64)
    for name in set(model) & {'neck', 'head', 'rpn_head', 'bbox_head',
                              'roi_head', 'decode_head', 'auxiliary_head'}:
        part = model[name]
        if part is None:
            continue
        if name == 'neck':
            part.in_channels = taps
        elif name == 'head':
            part.in_channels = taps[-1]
        elif isinstance(part.get('in_index'), int):
            part.in_channels = read[part.in_index]
        elif 'in_index' in part:
            part.in_channels = [read[i] for i in part.in_index]
        else:
            set_in_channels(part)
    return model


def shrink_sizes(part: dict | list) -> None:
    """Every entry of SIZES, at any depth."""
    for value in part.values() if isinstance(part, dict) else part:
        if isinstance(value, (dict, list)):
            shrink_sizes(value)
    for key in set(part) & set(SIZES) if isinstance(part, dict) else ():
        if isinstance(part[key], (int, float)):
            part[key] = SIZES[key]


def set_in_channels(part: dict | list) -> None:
    """WIDTH wherever a head says what it reads."""
    for value in part.values() if isinstance(part, dict) else part:
        if isinstance(value, (dict, list)):
            set_in_channels(value)
    if 'in_channels' in part:
        part['in_channels'] = WIDTH


def random_data(cfg: Config, classes: int) -> dict:
    """Two small images with their truth, as a loader would give them."""
    if cfg.default_scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs
        data = demo_mm_inputs(
            2, [[3, 96, 128], [3, 128, 96]], num_items=[3, 3],
            num_classes=classes, with_mask=True)
        for sample in data['data_samples']:
            truth = sample.gt_instances
            sample.set_metainfo(dict(instances=[
                dict(bbox=box.tolist(), bbox_label=int(label),
                     mask=[[0., 0., 9., 0., 9., 9.]])
                for box, label in zip(truth.bboxes, truth.labels)]))
        return data
    backbone = cfg.model.backbone
    shape = (backbone.get('in_channels', 3), 64, 64)
    if backbone.get('in_channels', 3) != 3:  # frames over time
        shape = (backbone.time_steps, *shape)
    images = [torch.randint(256, shape, dtype=torch.uint8) for _ in range(2)]
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain.structures import DataSample
        labels = torch.randint(classes, (2, ))
        return dict(inputs=torch.stack(images), data_samples=[
            DataSample().set_gt_label(label) for label in labels])
    from mmseg.structures import SegDataSample
    samples = [SegDataSample(metainfo=dict(
        img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64)))
        for _ in range(2)]
    for sample in samples:
        sample.gt_sem_seg = PixelData(
            data=torch.randint(classes, (1, 64, 64)))
    return dict(inputs=images, data_samples=samples)


def number_of_classes(model: nn.Module) -> int:
    for path in ('head', 'decode_head', 'bbox_head', 'roi_head.bbox_head',
                 'roi_head.bbox_head.0'):
        try:
            return model.get_submodule(path).num_classes
        except AttributeError:
            continue
    raise AssertionError('no head with classes')


STEPS = {}  # what was trained -> its Step


class Step(NamedTuple):
    """What one training step and one evaluated batch gave."""
    losses: dict
    decay: dict[str, tuple[int, float]]  # parameter -> dimensions, decay
    scores: dict


def step_of(name: str) -> Step:
    """A step of a config, done once for each structure."""
    cfg = load(name)
    cfg.model = shrink(cfg.model)
    evaluator = {k: v for k, v in cfg.val_evaluator.items()
                 if k != 'ann_file'}
    key = json.dumps([cfg.model, cfg.optim_wrapper, evaluator], default=str)
    if key not in STEPS:
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            STEPS[key] = run_step(cfg, evaluator)
    return STEPS[key]


def run_step(cfg: Config, evaluator: dict) -> Step:
    from mmengine.optim import build_optim_wrapper
    model = build(cfg, 'cpu')
    model.init_weights()
    classes = number_of_classes(model)
    data = random_data(cfg, classes)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    loss, losses = model.parse_losses(
        model(**model.data_preprocessor(data, True), mode='loss'))
    wrapper.backward(loss)
    missed = [n for n, p in model.named_parameters()
              if p.grad is None or not p.grad.isfinite().all()]
    assert not missed, 'parameters that do not learn'
    wrapper.step()
    decay_of = {
        id(p): group['weight_decay']
        for group in wrapper.optimizer.param_groups for p in group['params']}
    decay = {name: (p.dim(), decay_of[id(p)])
             for name, p in model.named_parameters()}
    model.eval()
    with torch.no_grad():
        samples = [s.to_dict() for s in model.val_step(data)]
    metric = METRICS.build(evaluator)
    metric.dataset_meta = dict(classes=[str(i) for i in range(classes)])
    metric.process(data, samples)
    return Step(losses, decay, metric.evaluate(len(samples)))


@pytest.mark.parametrize('name', CONFIGS)
def test_one_step_and_one_batch(name):
    losses, _, scores = step_of(name)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert sum('loss' in part for part in losses) > 0
    assert scores
    # -1 or nan: nothing to be found, or nothing found, of a class.
    assert all(np.isnan(s) or -1 <= s <= 100 for s in scores.values())


@pytest.mark.parametrize('name', CONFIGS)
def test_only_weights_decay(name):
    """Norms, biases, step sizes and layer scales take no weight decay."""
    decay = step_of(name).decay
    assert any(value > 0 for _, value in decay.values())
    assert not [key for key, (dim, value) in decay.items()
                if (value > 0) != (dim > 1)]


# The metafiles


@cache
def index() -> dict[str, dict]:
    """Models of the metafiles by the name of their config."""
    models = {}
    content = yaml.safe_load((HOME / 'model-index.yml').read_text())
    collections = {c['Name'] for c in content['Collections']}
    for file in content['Import']:
        for model in yaml.safe_load((HOME / file).read_text())['Models']:
            assert model['In Collection'] in collections
            name = model['Config'].removeprefix('configs/')
            assert name not in models, 'listed twice'
            assert model['Name'] == Path(name).stem
            models[name] = model
    return models


def facts(model: nn.Module) -> dict:
    """What a metafile says of a model, counted in the model."""
    def bits(module: nn.Module) -> int | str:
        found = sorted({
            m.bits or 32 for m in module.modules() if isinstance(m, LSQWeight)
        } | {32 for m in module.modules()
             if type(m) in (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)})
        return found[0] if len(found) == 1 else ', '.join(map(str, found))

    others = nn.ModuleList(  # an auxiliary head serves training alone
        m for n, m in model.named_children()
        if n not in ('backbone', 'auxiliary_head'))
    found = {
        'Parameters': sum(p.numel() for p in model.parameters()),
        'Backbone Bits': bits(model.backbone),
        'Head Bits': bits(others)
    }
    neurons = {(m.time_steps, m.levels) for m in model.backbone.modules()
               if isinstance(m, SpikingNeuron)}
    assert len(neurons) < 2
    for steps, levels in neurons:
        found['T x D'] = f'{steps} x {levels}'
    return found


def test_the_metafiles_list_every_config():
    assert sorted(index()) == CONFIGS


@pytest.mark.parametrize('name', CONFIGS)
def test_the_metafiles_count_right(name):
    said = index()[name]['Metadata']
    expected = facts(full_size(name))
    assert {k: said.get(k) for k in expected} == expected
    assert ('T x D' in said) == ('T x D' in expected)
    if name in BIG:
        lengths = load(name).train_cfg
        assert said.get('Epochs') == lengths.get('max_epochs')
        assert said.get('Iterations') == lengths.get('max_iters')


def test_measured_figures_are_those_of_the_readme():
    readme = (HOME / 'README.md').read_text()
    results = [r for m in index().values() for r in m.get('Results', [])]
    assert results
    for result in results:
        for name, figure in result['Metrics'].items():
            digits = 3 if name.endswith('AP') else 1
            assert f'{figure:.{digits}f}' in readme, (name, figure)


def kind(cfg: Config) -> dict:
    """What makes a network what it is: its parts, and the backbone's size."""
    model = cfg.model
    backbone = {k: v for k, v in model.backbone.items() if k != 'init_cfg'}
    if 'IELIF' in backbone.get('neuron', {}).get('type', 'IELIF'):
        backbone['neuron'] = dict(
            dict(type='mmqsdt.IELIF', threshold=0.25), **backbone.get(
                'neuron', {}))
    parts = {k: model[k].type for k in model
             if (k.endswith('head') or k == 'neck') and model[k]}
    roi = model.get('roi_head', {})
    for part in ('bbox_head', 'mask_head'):
        each = roi.get(part, [])
        each = each if isinstance(each, list) else [each]
        parts[f'roi_head.{part}'] = {head.type for head in each}
    return dict(type=model.type, backbone=backbone, parts=parts)


@pytest.mark.parametrize('name', BIG)
def test_the_same_network_runs_on_the_digits(name):
    """With the line of its metafile, made for tools/train.py."""
    parser = ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args(
        shlex.split(index()[name]['Metadata']['On Digits']))
    digits = load(args.config.removeprefix('configs/'))
    digits.merge_from_dict(args.cfg_options or {})
    assert 'digits' in digits.train_dataloader.dataset.data_root
    assert kind(digits) == kind(load(name))
    assert geometry_faults(build(digits)) == []


# Averaged weights


def pictures(folder: Path, classes: int = 10) -> None:
    """A folder of random pictures for each class, for both splits."""
    for split in ('train', 'val'):
        for i in range(classes):
            mmcv.imwrite(
                np.random.randint(0, 256, (32, 32, 3), np.uint8),
                str(folder / split / str(i) / '0.png'))


def test_averaged_weights_are_evaluated_and_saved(tmp_path, monkeypatch):
    """Parameters, step sizes and statistics: test.py gives the last scores."""
    pytest.importorskip('mmpretrain')
    pictures(tmp_path / 'data/digits/cls')
    hook, = load('cls/qsdt_imagenet.py').custom_hooks
    (tmp_path / 'ema.py').write_text(
        f'_base_ = {str(ROOT / "cls/qsdt_digits.py")!r}\n'
        f'custom_hooks = [{dict(hook, momentum=0.3)}]\n'
        'val_evaluator = [dict(type="Accuracy"), '
        'dict(type="DumpResults", out_file_path="val.pkl")]\n')
    run_tool(monkeypatch, tmp_path, 'train.py', 'ema.py', '--work-dir', 'ema',
             '--cfg-options', 'train_cfg.max_epochs=2',
             'train_dataloader.batch_size=4')
    run_tool(monkeypatch, tmp_path, 'test.py', 'ema.py', 'ema/epoch_2.pth',
             '--out', 'test.pkl')
    val, test = (pickle.loads((tmp_path / f'{part}.pkl').read_bytes())
                 for part in ('val', 'test'))
    assert [s['sample_idx'] for s in val] == [s['sample_idx'] for s in test]
    for a, b in zip(val, test):
        assert torch.equal(a['pred_score'], b['pred_score'])
    saved = read_checkpoint(tmp_path / 'ema/epoch_2.pth')
    average, last = saved['state_dict'], saved['ema_state_dict']
    for part in ('downsample.conv.weight', 'downsample.conv.step_size',
                 'downsample.norm.weight', 'downsample.norm.running_mean'):
        name = f'backbone.stages.0.{part}'
        assert not torch.equal(average[name], last[f'module.{name}']), part
    assert all((v > 0).all() for k, v in average.items() if 'step_size' in k)


# CIFAR

CIFAR = {
    'cls/qsdt_cifar10.py': ('data/cifar10/cifar-10-batches-py', [
        *(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'], 'labels'),
    'cls/qsdt_cifar100.py': ('data/cifar100/cifar-100-python',
                             ['train', 'test'], 'fine_labels')
}


def cifar_stand_in(folder: Path, name: str) -> None:
    """The files of a data set, of two random images each."""
    place, files, key = CIFAR[name]
    (folder / place).mkdir(parents=True)
    for file in files:
        (folder / place / file).write_bytes(pickle.dumps({
            'data': np.random.randint(0, 256, (2, 3072), np.uint8),
            key: [0, 9]}))


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
@pytest.mark.parametrize('name', CIFAR)
def test_missing_cifar_is_said_and_not_downloaded(name, tool, tmp_path,
                                                  monkeypatch):
    pytest.importorskip('mmpretrain')
    for part in ('train', 'val', 'test'):
        assert load(name)[f'{part}_dataloader'].dataset.download is False
    folder = CIFAR[name][0]
    more = ['some.pth'] if tool == 'test.py' else []
    with pytest.raises(SystemExit, match=f'looked for: {re.escape(folder)}\n'
                       ) as stop:
        run_tool(monkeypatch, tmp_path, tool, ROOT / name, *more)
    message = str(stop.value)
    assert 'https://www.cs.toronto.edu/~kriz/cifar.html' in message
    assert 'ln -s' in message and folder.split('/')[1] in message
    # Outside the checkout, where tools/ is not.
    assert 'python -m mmqsdt train configs/cls/qsdt_digits.py' in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', CIFAR)
def test_cifar_trains_on_data_in_its_format(name, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets import CIFAR10
    cifar_stand_in(tmp_path, name)
    # The stand-ins have other checksums than the real files.
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    run_tool(monkeypatch, tmp_path, 'train.py', ROOT / name, '--work-dir',
             'cifar', '--cfg-options', 'model.backbone.arch=tiny',
             'model.head.in_channels=128', 'train_cfg.max_epochs=1',
             'train_dataloader.batch_size=2',
             'train_dataloader.dataset.indices=2', *(
                 f'{part}_dataloader.{option}' for part in ('train', 'val')
                 for option in ('num_workers=0', 'persistent_workers=False',
                                'pin_memory=False')))
    assert (tmp_path / 'cifar/epoch_1.pth').is_file()
