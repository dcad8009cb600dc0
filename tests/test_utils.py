import warnings
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from mmengine.config import Config
from packaging.version import Version

from mmqsdt import get_config_path, warn_untested_versions
from mmqsdt.utils import configs, versions
from mmqsdt.utils.text import describe, part_of


def test_config_path_is_absolute_and_loads():
    path = Path(get_config_path('det/qsdt_maskrcnn_digits.py'))
    assert path.is_absolute()
    assert path.parts[-3:] == ('configs', 'det', 'qsdt_maskrcnn_digits.py')
    assert Config.fromfile(path).default_scope == 'mmdet'


def test_config_path_without_a_name_is_the_folder():
    folder = Path(get_config_path())
    assert folder.is_dir()
    assert {'_base_', 'cls', 'det', 'seg'} <= {p.name for p in
                                               folder.iterdir()}


def test_unknown_config_names_what_there_is():
    with pytest.raises(FileNotFoundError) as error:
        get_config_path('det/nothing.py')
    message = str(error.value)
    assert message.startswith("no config 'det/nothing.py'; there are: ")
    known = message.split(': ')[1].split(', ')
    for task in ('cls', 'det', 'seg'):
        assert any(name.startswith(f'{task}/') for name in known)
    assert all(Path(get_config_path(name)).is_file() for name in known)
    assert not any('_base_' in name for name in known)


def test_installed_wheel_looks_inside_the_package(tmp_path, monkeypatch):
    (tmp_path / 'configs/det').mkdir(parents=True)
    (tmp_path / 'configs/det/x.py').write_text('')
    monkeypatch.setattr(configs, '__file__',
                        str(tmp_path / 'utils/configs.py'))
    assert get_config_path('det/x.py') == str(tmp_path / 'configs/det/x.py')


def test_tools_are_called_as_they_can_be(tmp_path, monkeypatch):
    assert configs.tool_command('train') == 'python tools/train.py'
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(tmp_path)
        assert configs.tool_command('train') == 'python -m mmqsdt train'
    monkeypatch.setattr(configs, '__file__',
                        str(tmp_path / 'mmqsdt/utils/configs.py'))
    assert configs.tool_command('train') == 'python -m mmqsdt train'


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these distributions are installed, and no others."""
    found = {}

    def version(name):
        if name not in found:
            raise PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(versions, 'version', version)
    return found


def test_untested_versions_give_one_warning_that_names_them(installed):
    installed.update({
        'torch': '1.0', 'onedl-mmcv': '99.0', 'spikingjelly': '2.0.0'})
    with pytest.warns() as caught:
        warn_untested_versions()
    (warning, ) = caught
    message = str(warning.message)
    assert 'torch 1.0 (tested: >=' in message
    assert 'onedl-mmcv 99.0 (tested: >=' in message
    assert 'spikingjelly' not in message
    assert 'requirements.txt' in message
    assert '\n' not in message


def test_range_is_closed_below_and_open_above(installed):
    first, end = versions.TESTED_VERSIONS['torch']
    installed['torch'] = f'{first}.0+cpu'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_untested_versions()
    installed['torch'] = end
    with pytest.warns(UserWarning, match=f'torch {end}'):
        warn_untested_versions()


def test_nothing_installed_gives_no_warning(installed):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_untested_versions()


def test_pinned_set_is_inside_the_tested_ranges():
    requirements = Path(__file__).resolve().parents[1] / 'requirements.txt'
    pins = dict(
        line.split('==') for line in requirements.read_text().splitlines()
        if '==' in line)
    assert {'torch', 'spikingjelly', 'onedl-mmengine'} <= pins.keys()
    for name in pins.keys() & versions.TESTED_VERSIONS.keys():
        first, end = versions.TESTED_VERSIONS[name]
        assert Version(first) <= Version(pins[name]) < Version(end), name


@pytest.mark.parametrize('path, part', [
    ('backbone.stages.3.blocks.1.attn.q_neuron', 'backbone.stages.3'),
    ('backbone.head.norm', 'backbone'), ('neck.lateral_convs.0', 'neck'),
    ('roi_head.mask_head.convs.0', 'roi_head.mask_head'), ('head', 'head')])
def test_the_part_of_a_network_that_a_module_is_in(path, part):
    assert part_of(path) == part


def test_an_error_without_words_is_told_by_its_line():
    assert describe(ValueError('bad\nmore')) == 'ValueError: bad'
    try:
        raise AssertionError
    except AssertionError as error:
        assert 'test_utils.py, line' in describe(error)
