"""Recipes fit the data and the machine."""

import pytest
from mmengine.config import Config
from PIL import Image
from shared import run_tool
from test_configs import load
from test_data.small_data import MAKERS

from mmqsdt.engine.estimate import Cost, training_size
from mmqsdt.engine.recipe import Machine, choose_recipe
from mmqsdt.models.channels import check_channels
from mmqsdt.utils.text import read_text

GPU, CPU = Machine(True, 16, 40 * 10**9), Machine(False, 2, 16 * 10**9)
# Bytes and seconds of a pixel grow with the network.
COSTS = dict(tiny=Cost(500., 1e-7, 10**7), **{
    '8m': Cost(2000., 1e-6, 10**8), '15m': Cost(3000., 2e-6, 2 * 10**8)})
ADE = 'seg/qsdt-learned_fpn_ade20k.py'


def choose(name: str, images: int, size: tuple[int, int], machine: Machine):
    return choose_recipe(load(name), images, size, machine, COSTS.get)


@pytest.mark.parametrize('images, arch', [
    (16, 'tiny'), (1000, '8m'), (20000, '15m')])
def test_few_images_take_a_small_network(images, arch):
    recipe = choose(ADE, images, (600, 800), GPU)
    assert recipe.arch == arch
    assert ('arch' in recipe.why) == (arch != '15m')


@pytest.mark.parametrize('size, machine, side', [
    ((600, 800), GPU, 512), ((300, 400), GPU, 288), ((600, 800), CPU, 256),
    ((40, 20), CPU, 32)])
def test_images_are_not_enlarged(size, machine, side):
    assert choose(ADE, 500, size, machine).side == side


def test_a_batch_that_fits():
    """Sixteen label maps: what was killed for memory is refused a batch."""
    small = Machine(True, 4, 2 * 10**9)
    recipe = choose(ADE, 20000, (600, 800), small)
    pixels = recipe.batch * 512 * 512
    assert recipe.batch == 1 and recipe.accumulate == 8
    assert COSTS[recipe.arch].memory(pixels) < 0.6 * small.memory
    many = choose(ADE, 20000, (600, 800), GPU)
    assert many.batch == 16 and many.accumulate == 1
    assert many.lr > recipe.lr and 'lr' in recipe.why
    assert choose(ADE, 16, (600, 800), GPU).batch == 4


def test_what_would_last_for_days_is_made_smaller():
    recipe = choose(ADE, 20000, (600, 800), CPU)
    assert recipe.arch == 'tiny'
    assert 'On this machine' in recipe.why['arch']
    seconds = COSTS['tiny'].seconds * 256**2 * recipe.batch * recipe.steps
    assert f'{recipe.steps} steps, about' in recipe.why['epochs']
    assert seconds < 12 * 3600


def test_short_trainings_are_long_enough():
    recipe = choose('cls/qsdt-learned_imagenet.py', 40, (64, 64), GPU)
    assert recipe.epochs == 300 and recipe.steps == 4 * 300
    assert choose('cls/qsdt-learned_imagenet.py', 10**6, (400, 500),
                  GPU).epochs == load(
                      'cls/qsdt-learned_imagenet.py').train_cfg.max_epochs


@pytest.mark.parametrize('kind', MAKERS)
def test_the_written_config_has_reasons_and_is_whole(kind, tmp_path,
                                                     monkeypatch, capsys):
    for framework in ('mmpretrain', 'mmdet', 'mmseg'):
        pytest.importorskip(f'{framework}.models')
    monkeypatch.chdir(tmp_path)
    MAKERS[kind](tmp_path / 'data')
    arguments = ['config', kind, 'data', '--out', 'my.py']
    run_tool(monkeypatch, tmp_path, 'prepare_data.py', *arguments)
    assert 'fitted to the data and this machine: arch tiny' in \
        capsys.readouterr().out
    cfg = Config.fromfile('my.py')
    check_channels(cfg.model)
    assert cfg.model.backbone.arch == 'tiny'
    assert min(training_size(cfg)) <= 64
    text = read_text('my.py')
    for words in (' Fitted to ', 'a smaller network learns', 'pixels: none '
                  'is enlarged', 'by the square root', 'steps'):
        assert words in text.replace('\n# ', ' '), words
    # A second time: refused, unless told; without fitting, as the base says.
    with pytest.raises(SystemExit, match='exists'):
        run_tool(monkeypatch, tmp_path, 'prepare_data.py', *arguments)
    assert read_text('my.py') == text
    run_tool(monkeypatch, tmp_path, 'prepare_data.py', *arguments,
             '--force', '--no-fit')
    assert 'Fitted' not in read_text('my.py')


def test_empty_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in ('train', 'val'):
        for name in ('cat', 'dog'):
            (tmp_path / 'data' / part / name).mkdir(parents=True)
    arguments = ('config', 'folder', 'data', '--out', 'my.py')
    with pytest.raises(SystemExit, match='train: no images for train'):
        run_tool(monkeypatch, tmp_path, 'prepare_data.py', *arguments)
    for part in ('train', 'val'):
        Image.new('RGB', (8, 8)).save(tmp_path / f'data/{part}/cat/x.png')
    with pytest.raises(SystemExit, match='no images of dog; put some there'):
        run_tool(monkeypatch, tmp_path, 'prepare_data.py', *arguments)
    assert not (tmp_path / 'my.py').exists()


def test_a_config_that_cannot_be_fitted_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain.models')
    monkeypatch.chdir(tmp_path)
    MAKERS['folder'](tmp_path / 'data')
    (tmp_path / 'my.py').write_text('# mine')

    def fail(*args):
        raise ValueError('cannot be fitted')

    monkeypatch.setattr('mmqsdt.engine.recipe.choose_recipe', fail)
    with pytest.raises(SystemExit, match='cannot be fitted'):
        run_tool(monkeypatch, tmp_path, 'prepare_data.py', 'config',
                 'folder', 'data', '--out', 'my.py', '--force')
    assert (tmp_path / 'my.py').read_text() == '# mine'
    with pytest.raises(SystemExit, match='cannot be fitted'):
        run_tool(monkeypatch, tmp_path, 'prepare_data.py', 'config',
                 'folder', 'data', '--out', 'other.py')
    assert not (tmp_path / 'other.py').exists()
