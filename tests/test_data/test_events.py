"""Event data, from the files of the camera to a trained classifier."""

import json
import runpy
import sys
import zipfile
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.visualization import Visualizer
from spikingjelly.datasets import CIFAR10DVS, base, split_to_train_test_set
from torch import nn

from mmqsdt.data import EventFrames, events

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/cls/qsdt_cifar10dvs.py'
CLASSES = ('airplane', 'bird', 'cat')
RECORDINGS = 10  # of each class: nine for training, one for validation
EVENTS = 400  # of a recording
NEURONS = {'IELIF': 2, 'LIF': 4}  # with T


def draw_events(seed: int, height: int = 128, width: int = 128) -> dict:
    """Events in the order of their times, in microseconds."""
    rng = np.random.default_rng(seed)
    return dict(
        t=np.sort(rng.integers(0, 1_300_000, EVENTS)),
        x=rng.integers(0, width, EVENTS),
        y=rng.integers(0, height, EVENTS),
        p=rng.integers(0, 2, EVENTS))


def aedat(t: np.ndarray, x: np.ndarray, y: np.ndarray,
          p: np.ndarray) -> bytes:
    """A file of the camera, AER-DAT 2.0: addresses and times, big-endian.

    The camera stood on its side and saw a mirror image; SpikingJelly sets
    both right.
    """
    address = (127 - x) << 8 | (127 - y) << 1 | (1 - p)
    words = np.stack([address, t], 1).astype('>u4')
    return b'#!AER-DAT2.0\r\n# a comment\r\n' + words.tobytes()


def recording_seed(label: int, number: int) -> int:
    return label * RECORDINGS + number


def dvs_stand_in(folder: Path) -> None:
    """Write data/cifar10dvs as its authors give it away."""
    download = folder / 'data/cifar10dvs/download'
    download.mkdir(parents=True)
    for label, name in enumerate(CLASSES):
        with zipfile.ZipFile(download / f'{name}.zip', 'w') as archive:
            for number in range(RECORDINGS):
                recorded = draw_events(recording_seed(label, number))
                archive.writestr(f'{name}/cifar10_{name}_{number}.aedat',
                                 aedat(**recorded))


def forbid_downloads(folder: Path, monkeypatch) -> None:
    """The archives of the test are the authors'; none can be fetched."""
    found = [(path.name, f'https://example.org/{path.name}',
              md5(path.read_bytes()).hexdigest())
             for path in sorted((folder / 'data/cifar10dvs/download').iterdir(
             ))]
    monkeypatch.setattr(CIFAR10DVS, 'resource_url_md5', lambda: found)

    def download(*args, **kwargs):
        pytest.fail('a download was started')

    monkeypatch.setattr(base, 'download_url', download)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('workplace')
    dvs_stand_in(folder)
    return folder


@pytest.fixture(autouse=True)
def archives(folder, monkeypatch) -> None:
    forbid_downloads(folder, monkeypatch)


@pytest.fixture
def data(folder) -> Path:
    return folder / 'data/cifar10dvs'


def open_part(root: Path,
              train: bool,
              frames: int = 2,
              **kwargs) -> EventFrames:
    return EventFrames(
        'CIFAR10DVS',
        data_root=str(root),
        train=train,
        frames_number=frames,
        **kwargs)


def load_config(t: int, neuron: str = 'IELIF') -> Config:
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.time_steps = t
    cfg.model.backbone.neuron = dict(type=f'mmqsdt.{neuron}')
    return cfg


def build_model(t: int, neuron: str) -> nn.Module:
    init_default_scope('mmpretrain')
    pytest.importorskip('mmpretrain.models')
    model = MODELS.build(load_config(t, neuron).model)
    model.init_weights()
    # Statistics of the first batch at once, so that neurons fire in eval.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model(torch.rand(2, t, 2, 32, 32))
    return model


@pytest.mark.parametrize('frames', [1, 3])
def test_frames_count_the_events_that_the_camera_wrote(frames, data):
    for train in (True, False):
        part = open_part(data, train, frames)
        for i in range(len(part)):
            sample = part[i]
            number = int(Path(sample['img_path']).stem.split('_')[-1])
            seed = recording_seed(sample['gt_label'], number)
            recorded = draw_events(seed)
            # As many events in each frame; the last has what is left over.
            frame = np.minimum(
                np.arange(EVENTS) // (EVENTS // frames), frames - 1)
            expected = np.zeros((frames, 2, 128, 128), np.float32)
            np.add.at(expected, (frame, recorded['p'], recorded['y'],
                                 recorded['x']), 1)
            assert torch.equal(sample['img'], torch.from_numpy(expected))


def test_split_by_time_differs_from_split_by_number(data):
    by_number, by_time = (
        open_part(data, False, split_by=how)[0]['img']
        for how in ('number', 'time'))
    assert by_number.sum() == by_time.sum() == EVENTS
    assert by_number[0].sum() == EVENTS // 2 != by_time[0].sum()


def test_nine_in_ten_of_each_class_are_for_training(data):
    train, val = open_part(data, True), open_part(data, False)
    paths = [[part[i]['img_path'] for i in range(len(part))]
             for part in (train, val)]
    whole = CIFAR10DVS(
        data, data_type='frame', frames_number=2, split_by='number')
    expected = [[whole.samples[i][0] for i in subset.indices]
                for subset in split_to_train_test_set(0.9, whole, 3)]
    assert paths == expected
    for part, number in ((train, 9), (val, 1)):
        labels = [part.get_data_info(i)['gt_label'] for i in range(len(part))]
        assert labels == sorted([0, 1, 2] * number)
        assert part.metainfo['classes'] == CLASSES


@pytest.mark.parametrize('name, size, split', [
    ('NMNIST', (34, 34), True),
    ('DVS128Gesture', (128, 128), True),
    ('NCaltech101', (180, 240), False),
])
def test_other_data_sets_of_spikingjelly(name, size, split, tmp_path):
    parts = dict(train=2, test=3) if split else {'': 10}
    for part, recordings in parts.items():
        for label in '01':
            place = tmp_path / 'events_np' / part / label
            place.mkdir(parents=True)
            for number in range(recordings):
                np.savez(place / f'{number}.npz', **draw_events(0, *size))
    train, val = (
        EventFrames(name, str(tmp_path), train=t, frames_number=2)
        for t in (True, False))
    assert (len(train), len(val)) == ((4, 6) if split else (18, 2))
    assert train[0]['img'].shape == (2, 2, *size)
    assert train[0]['img'].sum() == EVENTS


def test_only_one_process_makes_the_frames(data, monkeypatch):
    made = data / 'frames_number_5_split_by_number'

    def wait_for_the_other():
        assert not made.exists()
        with monkeypatch.context() as other:
            other.setattr(events, 'is_main_process', lambda: True)
            other.setattr(events, 'barrier', lambda: None)
            open_part(data, True, 5)

    monkeypatch.setattr(events, 'is_main_process', lambda: False)
    monkeypatch.setattr(events, 'barrier', wait_for_the_other)
    assert len(open_part(data, False, 5)) == 3
    assert made.is_dir()


def test_missing_and_damaged_archives_are_named(tmp_path):
    download = tmp_path / 'download'
    download.mkdir()
    damaged = download / 'bird.zip'
    damaged.write_bytes(b'half of it')
    with pytest.raises(FileNotFoundError) as error:
        open_part(tmp_path, True)
    text = str(error.value)
    assert 'no recordings of CIFAR10DVS' in text
    for name in CLASSES:
        assert f'download/{name}.zip: https://example.org/{name}.zip' in text
    assert list(tmp_path.rglob('*')) == [download, damaged]  # as it was


def test_too_few_recordings_to_be_split(tmp_path):
    place = tmp_path / 'events_np/airplane'
    place.mkdir(parents=True)
    np.savez(place / 'only.npz', **draw_events(0))
    with pytest.raises(ValueError, match='too few recordings'):
        open_part(tmp_path, False)


def test_arguments_out_of_range(data):
    with pytest.raises(ValueError, match='no event data set .*CIFAR10DVS, '):
        EventFrames('DVSCIFAR10', str(data), train=True, frames_number=2)
    with pytest.raises(ValueError, match='frames_number must be a positive'):
        open_part(data, True, 0)
    with pytest.raises(ValueError, match='split_by must be'):
        open_part(data, True, split_by='class')


def test_all_parts_of_the_config_agree():
    cfg = Config.fromfile(CONFIG)
    t = cfg.model.backbone.time_steps
    assert t > 1
    for part in ('train', 'val', 'test'):
        dataset = cfg[f'{part}_dataloader'].dataset
        assert dataset.frames_number == t
        assert dataset.train == (part == 'train')


def test_all_frames_are_moved_alike(data):
    pytest.importorskip('mmpretrain.datasets')
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(CONFIG).train_dataloader.dataset
    cfg.update(data_root=str(data), frames_number=1)
    part = DATASETS.build(cfg)
    unchanged = open_part(data, True, 1)
    frame = unchanged[0]['img']
    moved = part.pipeline(dict(img=frame.repeat(3, 1, 1, 1), gt_label=0))
    first, *others = moved['inputs']
    assert first.shape == (2, 128, 128)
    assert not torch.equal(first, frame[0])
    assert all(torch.equal(other, first) for other in others)
    values = frame.unique().tolist()  # counts stay counts
    assert set(first.unique().tolist()) <= set(values)


def test_batches_reach_the_model_unchanged(data):
    pytest.importorskip('mmpretrain.models')
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(CONFIG)
    dataset = cfg.val_dataloader.dataset
    dataset.update(data_root=str(data), frames_number=2)
    part, plain = DATASETS.build(dataset), open_part(data, False)
    batch = default_collate([part[i] for i in range(3)])
    batch = MODELS.build(cfg.model.data_preprocessor)(batch, training=True)
    assert torch.equal(batch['inputs'],
                       torch.stack([plain[i]['img'] for i in range(3)]))
    assert batch['inputs'].shape == (3, 2, 2, 128, 128)  # (B, T, C, H, W)
    assert [int(s.gt_label) for s in batch['data_samples']] == [0, 1, 2]


@pytest.mark.parametrize('neuron', NEURONS)
def test_equal_frames_are_an_image(neuron):
    t = NEURONS[neuron]
    model = build_model(t, neuron).eval()
    image = torch.rand(2, 2, 32, 32)
    frames = image.unsqueeze(1).expand(-1, t, -1, -1, -1)
    with torch.no_grad():
        assert torch.equal(model(frames), model(image))


@pytest.mark.parametrize('neuron', NEURONS)
def test_the_order_of_frames_matters(neuron):
    model = build_model(NEURONS[neuron], neuron).eval()
    frames = 4 * torch.rand(2, NEURONS[neuron], 2, 32, 32)
    with torch.no_grad():
        there, back = (model.extract_feat(x)[0]
                       for x in (frames, frames.flip(1)))
    # Far more than what sums in another order come to.
    assert (there - back).abs().max() > 0.01 * there.abs().max()


@pytest.mark.parametrize('neuron', NEURONS)
def test_gradients_reach_every_frame(neuron):
    model = build_model(NEURONS[neuron], neuron)
    frames = torch.rand(2, NEURONS[neuron], 2, 32, 32, requires_grad=True)
    model.extract_feat(frames)[0].square().sum().backward()
    assert (frames.grad.abs().amax((0, 2, 3, 4)) > 0).all()
    assert frames.grad.isfinite().all()


@pytest.fixture
def run_tool(folder, monkeypatch):
    """Run a tool in the folder, in this process."""
    pytest.importorskip('mmpretrain')
    for cls in (Visualizer, *Visualizer.__subclasses__()):
        cls._instance_dict.clear()

    def run(tool: str, *args: str, cwd: Path = folder) -> None:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')

    return run


def options(neuron: str, frames: int, time_steps: int) -> list[str]:
    """Two iterations and one validation, in this process."""
    chosen = [
        '--cfg-options', 'train_cfg.max_epochs=1',
        'train_dataloader.dataset.indices=4',
        f'model.backbone.time_steps={time_steps}',
        f'model.backbone.neuron.type=mmqsdt.{neuron}'
    ]
    for part in ('train', 'val', 'test'):
        chosen += [
            f'{part}_dataloader.{key}'
            for key in (f'dataset.frames_number={frames}', 'batch_size=2',
                        'num_workers=0', 'persistent_workers=False')
        ]
    return chosen


@pytest.mark.parametrize('neuron', NEURONS)
def test_training_validating_testing(neuron, folder, run_tool, capsys):
    t = NEURONS[neuron]
    work_dir = folder / neuron
    run_tool('train.py', CONFIG, '--work-dir', work_dir,
             *options(neuron, t, t), 'default_hooks.logger.interval=1')
    log = next(work_dir.glob('*/vis_data/scalars.json')).read_text()
    *steps, validation = map(json.loads, log.splitlines())
    assert [s['step'] for s in steps] == [1, 2]
    assert all(np.isfinite(s['loss']) for s in steps)
    capsys.readouterr()
    run_tool('test.py', CONFIG, work_dir, '--work-dir', folder / 'tested',
             *options(neuron, t, t))
    printed = capsys.readouterr().out
    assert f'accuracy/top1: {validation["accuracy/top1"]:.4f}' in printed


def test_other_number_of_frames_than_time_steps(folder, run_tool):
    with pytest.raises(SystemExit, match='input of 3 frames, but the '
                       'backbone has time_steps=2'):
        run_tool('train.py', CONFIG, '--work-dir', folder / 'unequal',
                 *options('IELIF', frames=3, time_steps=2))


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_missing_data_gives_one_clear_message(tool, tmp_path, run_tool):
    more = ['some.pth'] if tool == 'test.py' else []
    with pytest.raises(SystemExit) as stop:
        run_tool(tool, CONFIG, *more, cwd=tmp_path)
    message = str(stop.value)
    assert 'looked for: data/cifar10dvs' in message
    assert 'CIFAR10-DVS: https://figshare.com/' in message
    assert list(tmp_path.iterdir()) == []  # nothing was built
