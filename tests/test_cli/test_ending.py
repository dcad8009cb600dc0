"""Every tool ends in one line, whoever raised what."""

import re
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, Registry

from mmqsdt.cli import ending
from mmqsdt.cli.common import work_of
from mmqsdt.cli.ending import MAX_CHARACTERS, command, one_line

CLI = Path(ending.__file__).parent
TOOLS = sorted(p.stem for p in CLI.glob('*.py') if '\ndef main(' in
               p.read_text())


def raising(error):
    def main():
        raise error
    return main


class Strange(Exception):
    """One that cannot even be printed."""

    def __str__(self):
        raise RuntimeError('no words')


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool'])


@pytest.mark.parametrize('error', [
    AssertionError('palette'), AttributeError('no meta'), IndexError('list'),
    KeyError('gt_bboxes'), LookupError('x'), OSError(5, 'Input/output error'),
    OSError(),
    RuntimeError('size mismatch'), TypeError('unexpected keyword'),
    UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'invalid start byte'),
    ValueError('bad value'), ZeroDivisionError('division by zero'),
    AssertionError(), torch.OutOfMemoryError('DefaultCPUAllocator')])
def test_an_error_of_a_framework_is_one_line(error):
    with pytest.raises(SystemExit) as stop:
        command(raising(error))()
    message = str(stop.value.code)
    assert stop.value.__suppress_context__ and message
    for argument in error.args:
        if isinstance(argument, str):
            assert argument in message
    if not isinstance(error, OSError) or not error.args:
        assert message.startswith(type(error).__name__)
        assert 'test_ending.py' in message and '--debug' in message


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool', '--debug', 'config.py'])
    with pytest.raises(IndexError):
        command(raising(IndexError('list')))()
    assert sys.argv == ['tool', 'config.py']


def test_a_message_of_mmqsdt_stands_alone():
    with pytest.raises(SystemExit) as stop:
        command(lambda: MODELS.build(
            dict(type='mmqsdt.LSQLinear', in_features=1, out_features=1,
                 bits=5)))()
    assert 'bits must be 2, 3, 4, 8' in str(stop.value)


def open_nothing():
    with open('/nowhere/at/all'):  # noqa: PTH123
        pass


def fail_at_a_shape():
    torch.ones(2) @ torch.ones(3)


def say_on_purpose():
    raise KeyError('gt_bboxes')


def build_from_a_config():
    class Made:
        def __init__(self, levels):
            self.lower = [level for level in levels if level < 3]

    made = Registry('made')
    made.register_module(module=Made)
    made.build(dict(type='Made', levels=['4']))


def build_deeper():
    class Inner:
        def __init__(self, levels):
            self.levels = levels + 1

    def helper(levels):
        return Inner(levels)

    class Outer:
        def __init__(self, levels):
            self.inner = helper(levels)

    made = Registry('made')
    made.register_module(module=Outer)
    made.build(dict(type='Outer', levels='4'))


def give_no_value():
    parser = ending.ToolParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    parser.parse_args(['--cfg-options', 'nonsense'])


def ask_a_config():
    Config(dict(model={})).train_dataloader  # noqa: B018


MISTAKES = [lambda: {}['gt_bboxes'], lambda: None + 1, lambda: int('x'),
            lambda: [][1], lambda: None.weight, lambda: 1 / 0]


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_of_mmqsdt_keeps_its_traceback(mistake, monkeypatch):
    monkeypatch.setattr(ending, 'PACKAGE', Path(__file__).parent)
    with pytest.raises((ArithmeticError, AttributeError, LookupError,
                        TypeError, ValueError)) as caught:
        command(mistake)()
    assert 'report it' in caught.value.__notes__[0]


@pytest.mark.parametrize('cause, words', [
    (open_nothing, '/nowhere/at/all'), (fail_at_a_shape, 'RuntimeError: '),
    (say_on_purpose, 'gt_bboxes'),
    (build_deeper, "TypeError: can only"),
    (give_no_value, '--cfg-options are key=value'),
    (build_from_a_config, "TypeError: '<' not supported"),
    (ask_a_config, 'the config: .* no attribute .*train_dataloader.*\n'
     '.*test_ending.py, line .* ask_a_config')])
def test_what_a_user_causes_in_lines_of_mmqsdt_is_one(cause, words,
                                                      monkeypatch):
    monkeypatch.setattr(ending, 'PACKAGE', Path(__file__).parent)
    with pytest.raises(SystemExit) as stop:
        command(cause)()
    assert re.search(words, str(stop.value.code))


@pytest.mark.parametrize('error', [IndexError('list'), TypeError('x')])
def test_what_mmqsdt_never_says_is_a_mistake(error, monkeypatch):
    monkeypatch.setattr(ending, 'PACKAGE', Path(__file__).parent)
    with pytest.raises(type(error)) as caught:
        command(raising(error))()
    assert 'report it' in caught.value.__notes__[0]


def test_an_exit_is_left_alone():
    with pytest.raises(SystemExit) as stop:
        command(raising(SystemExit(2)))()
    assert stop.value.code == 2


class Failing(torch.utils.data.Dataset):
    """In a worker, whose error is told as text."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize('ours', [False, True])
def test_an_error_of_a_data_loaders_worker_has_no_traceback(ours,
                                                            monkeypatch):
    if ours:
        monkeypatch.setattr(ending, 'PACKAGE', Path(__file__).parent)
    loader = torch.utils.data.DataLoader(
        Failing(RuntimeError('3 samples:\n  a.jpg: broken')), num_workers=1)
    with pytest.raises(SystemExit) as stop:
        command(lambda: next(iter(loader)))()
    said = str(stop.value.code)
    assert '3 samples:\n  a.jpg: broken' in said and 'Traceback' not in said
    assert said.startswith('3 samples') is ours


def test_no_message_holds_a_whole_file():
    text = one_line(ValueError('x' * 10**6))
    assert len(text) < MAX_CHARACTERS + 200 and '1,000,000 char' in text


def test_the_handler_cannot_raise():
    assert one_line(Strange()).startswith('Strange: no message')


class Loop:
    def __init__(self, iteration):
        self._iter = iteration


class Runner:
    """Whose loop must not be built once more by asking for it."""

    @property
    def iter(self):
        raise AssertionError('asked')


@pytest.mark.parametrize('loop, kept', [
    (None, False), (dict(type='EpochBasedTrainLoop'), False),
    (Loop(0), False), (Loop(7), True)])
def test_an_error_in_a_training_that_had_begun_is_kept(loop, kept):
    runner = Runner()
    if loop:
        runner._train_loop = loop

    def main():
        with work_of(runner):
            raise IndexError('list')

    with pytest.raises(IndexError if kept else SystemExit):
        command(main)()


@pytest.mark.parametrize('tool', TOOLS)
def test_every_tool_ends_so(tool, monkeypatch, capsys):
    text = (CLI / f'{tool}.py').read_text()
    assert '@command\ndef main() -> None:' in text
    assert 'raise SystemExit(str(' not in text
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    with suppress(SystemExit):  # torchrun's record returns at status 0
        import_module(f'mmqsdt.cli.{tool}').main()
    assert '--debug' in capsys.readouterr().out
