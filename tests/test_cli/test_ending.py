"""Every tool ends in one line, whoever raised what."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

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
    if not isinstance(error, OSError):
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


def test_a_mistake_of_mmqsdt_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(ending, 'PACKAGE', Path(__file__).parent)
    with pytest.raises(IndexError) as caught:
        command(raising(IndexError('list')))()
    assert 'report it' in caught.value.__notes__[0]


def test_an_exit_is_left_alone():
    with pytest.raises(SystemExit) as stop:
        command(raising(SystemExit(2)))()
    assert stop.value.code == 2


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


@pytest.mark.parametrize('tool', [t for t in TOOLS if t != 'check_env'])
def test_every_tool_ends_so(tool):
    text = (CLI / f'{tool}.py').read_text()
    assert '@command\ndef main() -> None:' in text
    assert 'raise SystemExit(str(' not in text
