"""Broken training samples are left out; broken evaluation data are refused."""

import copy
import logging
import pickle
from pathlib import Path

import pytest
import torch
from faults import (
    FIRST,
    LEFT_OUT,
    LENGTH,
    OPTIONS,
    SHORT,
    VAL_FAULTS,
    VAL_WORDS,
    convert,
    spoil,
)
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from small_data import NUMBER

from mmqsdt.data import SkipBroken
from mmqsdt.data.check import refuse_faults
from mmqsdt.data.skip import check_sample, skip_broken


def same(a: object, b: object) -> bool:
    """Equal samples, whatever they hold."""
    return torch.equal(a['inputs'], b['inputs']) and \
        a['data_samples'].img_path == b['data_samples'].img_path


@pytest.mark.parametrize('kind, fault', LEFT_OUT)
def test_a_broken_sample_is_left_out_counted_and_named(
        kind, fault, configure, tmp_path, monkeypatch):
    cfg = configure(kind)
    path = spoil(kind, fault, tmp_path / kind)
    cfg.train_dataloader.dataset.update(OPTIONS.get(fault, {}))
    skip_broken(cfg)
    said = []
    monkeypatch.setattr('mmqsdt.data.skip.print_log',
                        lambda text, *args: said.append((text, *args)))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    paths = [dataset[i]['data_samples'].img_path for i in range(NUMBER)]
    assert len(dataset) == NUMBER
    assert dataset.skipped.tolist() == [True] + [False] * (NUMBER - 1)
    broken = dataset.get_data_info(0)['img_path']
    assert Path(broken).resolve() == path.resolve()
    assert broken not in paths
    assert paths[1:] == [dataset.get_data_info(i)['img_path']
                         for i in range(1, NUMBER)]
    # The same one again, in this data set and in another process's.
    again = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset[0]['data_samples'].img_path == paths[0] == \
        again[0]['data_samples'].img_path
    (text, _, level), _ = said  # one of each data set
    assert f'1 of {NUMBER}: {broken} (index 0): ' in text
    assert level == logging.ERROR


@pytest.mark.parametrize('kind', ['folder', 'coco', 'pairs'])
@pytest.mark.parametrize('mode', ['CMYK', 'L', '1'])
def test_unusual_modes_are_read(kind, mode, configure, tmp_path):
    cfg = configure(kind)
    path = tmp_path / kind / FIRST[kind]
    convert(path, mode)
    skip_broken(cfg)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert Path(dataset[0]['data_samples'].img_path).resolve() == \
        path.resolve()
    assert not dataset.skipped.any()


def test_too_many_broken_samples_are_an_error(configure, tmp_path):
    cfg = configure('folder')
    for path in (tmp_path / 'folder/train/cat').iterdir():
        path.write_bytes(b'')
    skip_broken(cfg)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    with pytest.raises(RuntimeError, match='2 of 4 training samples.*0.01'):
        [dataset[i] for i in range(NUMBER)]
    cfg.train_dataloader.dataset.max_skipped = 0.5
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len([dataset[i] for i in range(NUMBER)]) == NUMBER


def test_ten_in_a_row_are_no_matter_of_a_file(configure, tmp_path):
    cfg = configure('folder')
    cfg.train_dataloader.dataset.pipeline[0].color_type = 'no such'
    skip_broken(cfg, max_skipped=1)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    with pytest.raises(RuntimeError, match='10 samples in a row'):
        dataset[0]


@pytest.mark.parametrize('share', [-0.1, 1.1])
def test_max_skipped_is_a_share(share, configure):
    dataset = DATASETS.build(configure('folder').train_dataloader.dataset)
    with pytest.raises(ValueError, match='0 to 1'):
        SkipBroken(dataset, share)


def test_the_workers_of_a_loader_count_together(configure, tmp_path):
    cfg = configure('folder')
    spoil('folder', 'empty', tmp_path / 'folder')
    (tmp_path / 'folder/train/dog/1.jpg').write_bytes(b'')
    skip_broken(cfg, 0.5)
    loader = cfg.train_dataloader
    loader.update(num_workers=2, batch_size=1, persistent_workers=False)
    loader.sampler.shuffle = False
    built = Runner.build_dataloader(loader)
    assert len(list(built)) == NUMBER
    assert int(built.dataset.skipped.sum()) == 2


# name -> (the mixing step, what the innermost pipeline does after loading)
MIXES = {
    'Mosaic': [dict(type='Mosaic', img_scale=(64, 64), pad_val=114.)],
    'MixUp': [dict(type='MixUp', img_scale=(64, 64))],
    'CopyPaste': [dict(type='CopyPaste', max_num_pasted=2)],
    'all': [dict(type='Mosaic', img_scale=(64, 64), pad_val=114.),
            dict(type='MixUp', img_scale=(64, 64))],
}


def mixed(cfg: Config, name: str) -> dict:
    """The training data of a config, mixed."""
    inner = cfg.train_dataloader.dataset
    inner.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True,
             with_mask=name == 'CopyPaste')]
    return dict(
        type='MultiImageMixDataset', dataset=inner,
        pipeline=[*MIXES[name], dict(type='PackDetInputs')])


@pytest.mark.parametrize('name', MIXES)
def test_of_mixed_images_the_one_that_failed_is_named_once(
        name, configure, tmp_path, monkeypatch):
    cfg = configure('coco')
    path = spoil('coco', 'empty', tmp_path / 'coco')
    said = []
    monkeypatch.setattr('mmqsdt.data.skip.print_log',
                        lambda text, *args: said.append(text))
    cfg.train_dataloader.dataset = mixed(cfg, name)
    skip_broken(cfg)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for _ in range(10):
        for i in range(len(dataset)):
            assert dataset[i]['inputs'].numel()
    text, = said
    assert text.startswith(f'left out of training, 1 of {NUMBER}: ')
    assert f'{path.parent.name}/{path.name} (index 0)' in text
    assert not dataset.skipped.any()


@pytest.mark.parametrize('wrap', [
    lambda inner: dict(type='RepeatDataset', times=3, dataset=inner),
    lambda inner: dict(type='ClassBalancedDataset', oversample_thr=0.9,
                       dataset=inner),
    lambda inner: dict(type='ConcatDataset', datasets=[
        inner, copy.deepcopy(inner)]),
])
@pytest.mark.parametrize('kind', ['folder', 'coco'])
def test_a_file_of_a_wrapped_set_is_counted_once(kind, wrap, configure,
                                                 tmp_path, monkeypatch):
    cfg = configure(kind)
    spoil(kind, 'empty', tmp_path / kind)
    said = []
    monkeypatch.setattr('mmqsdt.data.skip.print_log',
                        lambda text, *args: said.append(text))
    cfg.train_dataloader.dataset = wrap(cfg.train_dataloader.dataset)
    skip_broken(cfg)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for i in [*range(len(dataset)), *range(len(dataset))]:
        assert dataset[i]['inputs'].numel()
    sets = 2 if 'datasets' in cfg.train_dataloader.dataset.dataset else 1
    assert len(said) == sets
    assert all(f'1 of {NUMBER}: ' in text for text in said)


def test_a_mix_that_fails_itself_blames_no_file(configure):
    cfg = configure('coco')
    dataset = mixed(cfg, 'Mosaic')
    dataset['pipeline'][1] = dict(type='Resize', scale=(0, 0))
    dataset = SkipBroken(dataset, max_skipped=1)
    with pytest.raises(RuntimeError, match='10 samples in a row'):
        dataset[0]
    assert not dataset.dataset.dataset.skipped.any()


@pytest.mark.parametrize('ignored', [255, 2, None])
def test_the_ignored_label_is_the_heads(ignored, configure, tmp_path):
    cfg = configure('pairs')
    cfg.model.decode_head.ignore_index = ignored
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
        dict(type='PackSegInputs')]
    skip_broken(cfg, max_skipped=1)
    assert cfg.train_dataloader.dataset.ignore_index == ignored
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    if ignored == 255:
        dataset[0]
    else:  # its label maps have 255, which is no class then
        with pytest.raises(RuntimeError, match='has class 255'):
            dataset[0]


def test_all_else_is_the_wrapped_data_sets(configure):
    cfg = configure('coco')
    inner = DATASETS.build(cfg.train_dataloader.dataset)
    dataset = SkipBroken(inner)
    assert dataset.metainfo == inner.metainfo
    assert dataset.get_cat_ids(1) == inner.get_cat_ids(1) == [1]
    assert dataset.get_data_info(2) == inner.get_data_info(2)
    dataset.pipeline = pipeline = copy.copy(inner.pipeline)  # as hooks do
    assert inner.pipeline is pipeline
    with pytest.raises(AttributeError, match='no_such_thing'):
        dataset.no_such_thing  # noqa: B018
    spawned = pickle.loads(pickle.dumps(dataset))
    assert same(spawned[0], dataset[0])


def test_good_data_give_the_same_samples_as_without(configure):
    cfg = configure('coco')
    bare = DATASETS.build(cfg.train_dataloader.dataset)
    skip_broken(cfg)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert all(same(bare[i], dataset[i]) for i in range(NUMBER))


def test_a_config_that_names_it_is_not_wrapped_again(configure):
    cfg = configure('folder')
    skip_broken(cfg, 0.25)
    before = copy.deepcopy(cfg.train_dataloader)
    skip_broken(cfg)
    assert cfg.train_dataloader == before


def test_classes_that_no_annotation_has(configure):
    cfg = configure('coco')
    cfg.train_dataloader.dataset.metainfo = dict(classes=('cats', 'dogs'))
    skip_broken(cfg)
    with pytest.raises(ValueError, match='CocoDataset.*no sample is left'):
        DATASETS.build(cfg.train_dataloader.dataset)


def test_a_json_that_mmdet_cannot_read_is_named(configure, tmp_path,
                                                edit_json):
    cfg = configure('coco')
    edit_json(tmp_path / 'coco/annotations/instances_train.json',
              lambda content: content['annotations'][0].pop('area'))
    skip_broken(cfg)
    with pytest.raises(ValueError, match="coco/: KeyError: 'area'.*check"):
        DATASETS.build(cfg.train_dataloader.dataset)


# Through the tools; ``make torture`` does all faults.

@pytest.mark.parametrize('kind', ['folder', 'coco', 'pairs'])
def test_a_training_goes_on(kind, configure, run_tool, tmp_path):
    configure(kind).dump('my.py')
    spoil(kind, 'empty', tmp_path / kind)
    run_tool('train.py', 'my.py', '--work-dir', 'work', '--cfg-options',
             f'train_cfg.{LENGTH[kind]}', 'train_cfg.val_interval=100', *SHORT)
    log, = (tmp_path / 'work').glob('*/*.log')
    assert log.read_text().count('left out of training, 1 of 4') == 1
    assert list((tmp_path / 'work').glob('*.pth'))


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
@pytest.mark.parametrize('kind', VAL_FAULTS)
def test_broken_evaluation_data_are_refused_before_training(
        kind, tool, configure, run_tool, tmp_path):
    configure(kind).dump('my.py')
    VAL_FAULTS[kind](tmp_path / kind)
    torch.save(dict(state_dict=dict(x=torch.ones(1))), 'some.pth')
    more = ['some.pth'] if tool == 'test.py' else []
    with pytest.raises(SystemExit, match=VAL_WORDS[kind]):
        run_tool(tool, 'my.py', *more, '--work-dir', 'work')
    assert not (tmp_path / 'work').exists()


def test_only_faults_that_change_a_score_are_refused(configure, tmp_path,
                                                     edit_json):
    cfg = configure('coco')
    path = tmp_path / 'coco/annotations/instances_val.json'
    edit_json(path, lambda content: content['annotations'].pop(0))
    refuse_faults(cfg, ('val', 'test'))  # an image without annotation
    edit_json(path, lambda content: content['annotations'][0].pop('iscrowd'))
    with pytest.raises(ValueError, match='1 faults.*\n.*no iscrowd'):
        refuse_faults(cfg, ('val', 'test'))


@pytest.mark.parametrize('labels, fine', [
    ([0, 1], True), ([], True), ([0, 2], False), ([-1, 0], False)])
def test_labels_of_boxes_are_classes(labels, fine):
    """That after the last is the background, which nothing would say."""
    structures = pytest.importorskip('mmdet.structures')
    truth = structures.DetDataSample(gt_instances=InstanceData(
        labels=torch.tensor(labels, dtype=torch.long),
        bboxes=torch.tensor([[1., 1., 5., 5.]] * len(labels)).view(-1, 4)))
    sample = dict(inputs=torch.zeros(3, 8, 8), data_samples=truth)
    if fine:
        return check_sample(sample, ('cat', 'dog'))
    with pytest.raises(ValueError, match='the last of 2 classes is 1'):
        check_sample(sample, ('cat', 'dog'))
