import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import minimum_filter

pytest.importorskip('sklearn')
coco_mask = pytest.importorskip('pycocotools.mask')

from mmqsdt.data import (  # noqa: E402
    DIGITS_CLASSES,
    digit_scenes,
    digits,
    prepare_digits,
)

ROOT = Path(__file__).parents[2]
SMALL = dict(num_train=4, num_val=2, progress=False)
SEG_SPLITS = dict(train='training', val='validation')
SPLITS = ('train', 'val')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set; tests that change files make their own."""
    out_dir = tmp_path_factory.mktemp('data') / 'digits'
    prepare_digits(out_dir, **SMALL)
    return out_dir


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer scans to write, for tests of how folders are treated."""
    whole = digit_scenes.load_digits()
    whole.images, whole.target = whole.images[:100], whole.target[:100]
    monkeypatch.setattr(digit_scenes, 'load_digits', lambda: whole)


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*')) if path.is_file()
    }


def read_coco(data: Path, split: str) -> dict:
    path = data / 'det' / 'annotations' / f'instances_{split}.json'
    return json.loads(path.read_text())


def read_label_map(data: Path, split: str, name: str) -> np.ndarray:
    folder = data / 'seg' / 'annotations' / SEG_SPLITS[split]
    return np.asarray(Image.open((folder / name).with_suffix('.png')))


def decode(annotation: dict) -> np.ndarray:
    return coco_mask.decode(annotation['segmentation']).astype(bool)


def test_the_layout_is_the_one_the_configs_expect(data):
    files = set(read_files(data))
    expected = {'digits.json'}
    for split, number in (('train', 4), ('val', 2)):
        seg = SEG_SPLITS[split]
        expected.add(f'det/annotations/instances_{split}.json')
        for k in range(number):
            expected |= {
                f'det/{split}/{k:06d}.jpg', f'seg/images/{seg}/{k:06d}.jpg',
                f'seg/annotations/{seg}/{k:06d}.png'
            }
    assert {name for name in files if not name.startswith('cls/')} == expected
    assert {tuple(name.split('/')[1:3]) for name in files - expected} == {
        (split, name) for split in SPLITS for name in DIGITS_CLASSES
    }


def test_the_summary_counts_what_is_on_disk(data):
    summary = json.loads((data / 'digits.json').read_text())
    assert summary['arguments'] == dict(
        image_size=160, num_train=4, num_val=2, seed=0)
    assert summary['files'] == len(read_files(data)) - 1  # but for itself
    for split, number in (('train', 4), ('val', 2)):
        coco = read_coco(data, split)
        singles = list((data / 'cls' / split).rglob('*.png'))
        assert summary['splits'][split] == dict(
            single_digits=len(singles),
            scenes=number,
            scene_digits=len(coco['annotations']))
        assert len(coco['images']) == number


def test_every_scanned_digit_is_a_single_image_of_its_class(data):
    target = digit_scenes.load_digits().target
    paths = list((data / 'cls').rglob('*.png'))
    assert sorted(int(path.stem) for path in paths) == list(range(1797))
    assert all(int(p.parent.name) == target[int(p.stem)] for p in paths)
    with Image.open(paths[0]) as image:
        assert (image.size, image.mode) == ((32, 32), 'RGB')


def test_singles_of_train_and_val_are_different_scans(data):
    images = digit_scenes.load_digits().images
    train, val = (
        {
            images[int(path.stem)].tobytes()
            for path in (data / 'cls' / split).rglob('*.png')
        } for split in SPLITS)
    assert len(train) == 1437 and len(val) == 360
    assert not train & val


@pytest.mark.parametrize('split', SPLITS)
def test_scenes_show_digits_of_their_own_split_only(data, split):
    own = {
        int(path.stem): path.parent.name
        for path in (data / 'cls' / split).rglob('*.png')
    }
    coco = read_coco(data, split)
    names = {c['id']: c['name'] for c in coco['categories']}
    assert tuple(names.values()) == DIGITS_CLASSES
    for annotation in coco['annotations']:
        assert own[annotation['sample']] == names[annotation['category_id']]


def test_backgrounds_of_train_and_val_share_no_pixel_of_a_photograph():
    # Many scenes, so that a crop on the border would be met; not written.
    def shown(split):
        source = digit_scenes.load_source(split)
        pixels = {name: np.zeros((427, 640), bool) for name in source.photos}
        rng = np.random.default_rng(0)
        for _ in range(200):
            scene = digit_scenes._draw_background(source, 64, rng)
            left, top, side = scene.crop
            pixels[scene.photo][top:top + side, left:left + side] = True
        return pixels

    train, val = shown('train'), shown('val')
    assert set(train) == set(val) == {'china.jpg', 'flower.jpg'}
    for name in train:
        assert train[name].any() and val[name].any()
        assert not (train[name] & val[name]).any()


def test_written_crops_stay_in_the_columns_of_their_split(data):
    for split, (first, last) in dict(train=(0, 480), val=(500, 640)).items():
        for image in read_coco(data, split)['images']:
            left, top, side = image['photo_crop']
            assert first <= left and left + side <= last
            assert 0 <= top and top + side <= 427


@pytest.mark.parametrize('split', SPLITS)
def test_a_written_crop_is_where_the_background_comes_from(data, split):
    pictures = digit_scenes.load_sample_images()
    photos = {
        Path(path).name: pixels
        for path, pixels in zip(pictures.filenames, pictures.images)
    }
    for image in read_coco(data, split)['images']:
        left, top, side = image['photo_crop']
        crop = photos[image['photo']][top:top + side, left:left + side]
        crop = Image.fromarray(crop).resize((160, 160),
                                            Image.Resampling.BICUBIC)
        path = data / 'det' / split / image['file_name']
        scene = np.asarray(Image.open(path), float)
        background = read_label_map(data, split, image['file_name']) == 1
        # Away from the soft edges of the digits.
        background = minimum_filter(background, 9)
        likeness = max(
            np.corrcoef(scene[background].ravel(),
                        photo[background].ravel())[0, 1]
            for photo in (np.asarray(crop), np.asarray(crop)[:, ::-1]))
        # Not 1: JPEG.
        assert likeness > 0.9


@pytest.mark.parametrize('split', SPLITS)
def test_boxes_and_areas_are_those_of_the_masks(data, split):
    annotations = read_coco(data, split)['annotations']
    assert len({a['id'] for a in annotations}) == len(annotations) > 0
    for annotation in annotations:
        rows, columns = np.nonzero(decode(annotation))
        left, top = columns.min(), rows.min()
        assert annotation['bbox'] == [
            left, top, columns.max() - left + 1, rows.max() - top + 1
        ]
        assert annotation['area'] == len(rows)
        assert annotation['iscrowd'] == 0


@pytest.mark.parametrize('split', SPLITS)
def test_label_maps_are_the_masks_and_0_never_occurs(data, split):
    coco = read_coco(data, split)
    for image in coco['images']:
        expected = np.ones((160, 160), np.uint8)
        covered = np.zeros((160, 160), int)
        for annotation in coco['annotations']:
            if annotation['image_id'] == image['id']:
                mask = decode(annotation)
                covered += mask
                # category_id counts from 1, labels of digits from 2.
                expected[mask] = annotation['category_id'] + 1
        assert covered.max() == 1  # masks do not overlap
        labels = read_label_map(data, split, image['file_name'])
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, expected)
        assert labels.min() == 1 and labels.max() <= 11


@pytest.mark.parametrize('split', SPLITS)
def test_det_and_seg_images_are_the_same_files(data, split):
    assert read_files(data / 'det' / split) == read_files(
        data / 'seg' / 'images' / SEG_SPLITS[split])


def test_scenes_hold_two_to_five_legible_digits():
    source = digit_scenes.load_source('train')
    numbers = set()
    for index in range(40):
        scene = digit_scenes.compose_scene(source, 160, 0, index)
        numbers.add(len(scene.labels))
        for number, ink_area in enumerate(scene.ink_areas, start=1):
            mask = scene.owner == number
            assert mask.sum() >= 0.85 * ink_area
            # Ink is at most the digit, 24 to 64 pixels high; a pixel more
            # where its soft edge reaches into the margin.
            height = np.ptp(np.nonzero(mask)[0]) + 1
            assert 18 <= height <= 66
    assert numbers == {2, 3, 4, 5}


def test_ink_stands_out_from_what_it_is_painted_on():
    rng = np.random.default_rng(0)
    dark, light = np.zeros((9, 9, 3)), np.full((9, 9, 3), 200)
    color = digit_scenes._contrasting_color(dark, rng)
    assert (color >= 170).all()
    assert digit_scenes._contrasting_color(light, rng) is None
    # One pixel in five may be as light as the ink.
    stripes = np.where(np.arange(9)[:, None, None] == 0, light, dark)
    assert digit_scenes._contrasting_color(stripes, rng) is not None
    stripes = np.where(np.arange(9)[:, None, None] % 3 == 0, light, dark)
    assert digit_scenes._contrasting_color(stripes, rng) is None


def test_the_same_arguments_give_the_same_bytes(data, tmp_path):
    prepare_digits(tmp_path / 'again', **SMALL)
    assert read_files(tmp_path / 'again') == read_files(data)


def test_a_scene_does_not_depend_on_how_many_others_there_are(data):
    source = digit_scenes.load_source('train')
    scene = digit_scenes.compose_scene(source, 160, seed=0, index=3)
    np.testing.assert_array_equal(
        digits.label_map(scene), read_label_map(data, 'train', '000003.jpg'))


def test_the_seed_decides_scenes_and_split():
    first, second = (digit_scenes.load_source('val', seed) for seed in (0, 1))
    assert not np.array_equal(first.samples, second.samples)
    images = [
        digit_scenes.compose_scene(first, 64, seed, 0).image for seed in (0, 1)
    ]
    assert not np.array_equal(*images)


def test_other_image_sizes_scale_the_digits(few_digits, tmp_path):
    prepare_digits(tmp_path / 'd', **SMALL, image_size=320)
    for split in SPLITS:
        coco = read_coco(tmp_path / 'd', split)
        assert {(i['width'], i['height'])
                for i in coco['images']} == {(320, 320)}
        path = tmp_path / 'd' / 'det' / split / '000000.jpg'
        assert Image.open(path).size == (320, 320)
        assert all(a['bbox'][3] <= 132 for a in coco['annotations'])


@pytest.mark.parametrize('argument, value', [
    ('image_size', 63), ('image_size', 1025), ('image_size', 160.),
    ('num_train', 0), ('num_train', 100001), ('num_val', 0),
    ('num_val', -1), ('seed', -1), ('seed', 2**32)
])
def test_arguments_out_of_range_are_named(tmp_path, argument, value):
    with pytest.raises(ValueError, match=f'{argument} must be .* {value}'):
        prepare_digits(tmp_path / 'd', **(SMALL | {argument: value}))
    assert not (tmp_path / 'd').exists()


def test_a_complete_data_set_is_kept(few_digits, tmp_path):
    assert prepare_digits(tmp_path / 'd', **SMALL)['written']
    extra = tmp_path / 'd' / 'notes.txt'
    extra.write_text('mine')
    image = tmp_path / 'd' / 'det' / 'train' / '000000.jpg'
    image.write_bytes(b'changed by hand')
    summary = prepare_digits(tmp_path / 'd', **SMALL)
    assert not summary['written']
    assert image.read_bytes() == b'changed by hand'

    assert prepare_digits(tmp_path / 'd', **SMALL, force=True)['written']
    assert image.read_bytes() != b'changed by hand'
    assert extra.read_text() == 'mine'


def test_other_arguments_need_force(few_digits, tmp_path):
    prepare_digits(tmp_path / 'd', **SMALL)
    before = read_files(tmp_path / 'd')
    with pytest.raises(ValueError, match='seed 0; .* seed 1 use --force'):
        prepare_digits(tmp_path / 'd', **SMALL, seed=1)
    assert read_files(tmp_path / 'd') == before

    fewer = SMALL | dict(num_train=2)
    prepare_digits(tmp_path / 'd', **fewer, force=True)
    prepare_digits(tmp_path / 'fresh', **fewer)
    assert read_files(tmp_path / 'd') == read_files(tmp_path / 'fresh')


def test_lost_files_are_noticed(few_digits, tmp_path):
    prepare_digits(tmp_path / 'd', **SMALL)
    (tmp_path / 'd' / 'det' / 'val' / '000001.jpg').unlink()
    with pytest.raises(ValueError, match='lost files.*--force'):
        prepare_digits(tmp_path / 'd', **SMALL)


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """Make the n-th call of a function of the module fail."""
    function, calls = getattr(digits, name), []

    def fail(*args, **kwargs):
        calls.append(0)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    monkeypatch.setattr(digits, name, fail)


def test_an_interrupted_write_leaves_no_marker_and_can_be_repeated(
        few_digits, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 'compose_scene', 3)
        with pytest.raises(KeyboardInterrupt):
            prepare_digits(tmp_path / 'd', **SMALL)
    assert not (tmp_path / 'd' / 'digits.json').exists()
    assert not (tmp_path / 'd' / 'det').exists()

    assert prepare_digits(tmp_path / 'd', **SMALL)['written']
    prepare_digits(tmp_path / 'fresh', **SMALL)
    assert read_files(tmp_path / 'd') == read_files(tmp_path / 'fresh')
    assert not (tmp_path / 'd' / digits.STAGING).exists()


def test_interrupted_while_composing_the_old_data_stay(few_digits, tmp_path):
    prepare_digits(tmp_path / 'd', **SMALL)
    before = read_files(tmp_path / 'd')
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, 'compose_scene', 3)
        with pytest.raises(KeyboardInterrupt):
            prepare_digits(tmp_path / 'd', **SMALL, seed=1, force=True)
    after = read_files(tmp_path / 'd')
    assert before.items() <= after.items()
    assert not prepare_digits(tmp_path / 'd', **SMALL)['written']


def test_interrupted_while_moving_there_is_no_marker(few_digits, tmp_path):
    prepare_digits(tmp_path / 'd', **SMALL)
    replace = digits.os.replace

    def interrupted(source, target):
        # Files are written in the same way, before the folders are moved.
        return 1 / 0 if Path(source).is_dir() else replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits.os, 'replace', interrupted)
        with pytest.raises(ZeroDivisionError):
            prepare_digits(tmp_path / 'd', **SMALL, force=True)
    assert not (tmp_path / 'd' / 'digits.json').exists()
    assert prepare_digits(tmp_path / 'd', **SMALL)['written']


@pytest.mark.parametrize('force', [False, True])
@pytest.mark.parametrize('name, text', [
    ('thesis.txt', 'mine'), ('digits.json', '{"made_by": "another tool"}'),
    ('digits.json', '[]'), ('digits.json', 'no json')
])
def test_a_foreign_folder_is_refused(tmp_path, name, text, force):
    (tmp_path / 'cls').mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match='not made here'):
        prepare_digits(tmp_path, **SMALL, force=force)
    assert {path.name for path in tmp_path.iterdir()} == {'cls', name}
    assert (tmp_path / name).read_text() == text


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / 'd').write_text('mine')
    with pytest.raises(ValueError, match='is a file'):
        prepare_digits(tmp_path / 'd', **SMALL, force=True)


def run_tool(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, 'argv', ['prepare_data.py', *arguments])
    tool = ROOT / 'tools' / 'prepare_data.py'
    runpy.run_path(str(tool), run_name='__main__')


def test_the_tool_says_what_it_did(few_digits, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / 'd')
    arguments = ['digits', '--out', out, '--num-train', '2', '--num-val', '1']
    run_tool(monkeypatch, *arguments, '--image-size', '64', '--seed', '3')
    assert f'written to {out}' in capsys.readouterr().out
    marker = json.loads((tmp_path / 'd' / 'digits.json').read_text())
    assert marker['arguments'] == dict(
        image_size=64, num_train=2, num_val=1, seed=3)

    run_tool(monkeypatch, *arguments, '--image-size', '64', '--seed', '3')
    assert f'in {out} and were kept' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='^.*--force'):
        run_tool(monkeypatch, *arguments)
    run_tool(monkeypatch, *arguments, '--force')
    assert f'written to {out}' in capsys.readouterr().out


@pytest.mark.parametrize('name, scope, length', [
    ('cls', 'mmpretrain', (1437, 360)),
    ('instance', 'mmdet', (4, 2)),
    ('semantic', 'mmseg', (4, 2)),
])
def test_the_config_of_each_framework_reads_it(data, name, scope, length):
    utils = pytest.importorskip(f'{scope}.utils')
    from mmengine.config import Config
    from mmengine.registry import DATASETS, DefaultScope
    utils.register_all_modules(init_default_scope=False)
    path = ROOT / 'configs' / '_base_' / 'datasets' / f'digits_{name}.py'
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(scope):
        for split, number in zip(SPLITS, length):
            dataset_cfg = cfg[f'{split}_dataloader'].dataset
            dataset_cfg.data_root = dataset_cfg.data_root.replace(
                'data/digits', str(data))
            dataset = DATASETS.build(dataset_cfg)
            assert len(dataset) == number
            check = globals()[f'check_{name}_sample']
            check(data, split, dataset)


def check_cls_sample(data: Path, split: str, dataset) -> None:
    for index in (0, len(dataset) - 1):
        sample = dataset[index]
        assert sample['inputs'].shape == (3, 32, 32)
        folder = Path(sample['data_samples'].img_path).parent.name
        assert sample['data_samples'].gt_label.item() == int(folder)


def check_instance_sample(data: Path, split: str, dataset) -> None:
    coco = read_coco(data, split)
    for sample in dataset:
        sample = sample['data_samples']
        own = [
            a for a in coco['annotations'] if a['image_id'] == sample.img_id
        ]
        truth = sample.gt_instances
        assert truth.labels.tolist() == [a['category_id'] - 1 for a in own]
        masks = np.stack([decode(a) for a in own])
        np.testing.assert_array_equal(truth.masks.masks, masks)
        # A prediction is scaled back by it.
        assert sample.scale_factor == (1., 1.)


def check_semantic_sample(data: Path, split: str, dataset) -> None:
    for sample in dataset:
        labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
        name = Path(sample['data_samples'].img_path).name
        written = read_label_map(data, split, name)
        # reduce_zero_label: the background becomes 0, the digits 1 to 10.
        if split == 'train':  # a random crop of the scene, at its smaller size
            assert sample['inputs'].shape[1:] == labels.shape
            assert max(labels.shape) <= 64
            turned_in = {255}  # ignored: corners of a rotated scene
            assert set(np.unique(labels)) <= turned_in | set(
                np.unique(written - 1))
        else:  # scores are taken at the full size
            np.testing.assert_array_equal(labels, written - 1)
            assert sample['inputs'].shape == (3, 64, 64)
            assert dataset.metainfo['classes'][labels.max()] in \
                DIGITS_CLASSES
