"""What is on the screen, and that the rest is in the log file."""

import logging
import warnings
from pathlib import Path

import pytest
from mmengine.logging import MMLogger, print_log
from shared import run_tool

from mmqsdt.engine.quiet import Screen, quiet


@pytest.fixture(scope='module')
def workplace(tmp_path_factory) -> Path:
    pytest.importorskip('sklearn')
    pytest.importorskip('mmdet.models')
    from mmqsdt.data import prepare_digits
    folder = tmp_path_factory.mktemp('workplace')
    prepare_digits(folder / 'data/digits', num_train=4, num_val=2,
                   progress=False)
    return folder


def train(monkeypatch, folder: Path, *options: str) -> Path:
    """The log file of two short epochs."""
    work_dir = f'work{len(list(folder.iterdir()))}'
    run_tool(monkeypatch, folder, 'train.py', 'det/qsdt_maskrcnn_digits',
             '--work-dir', work_dir, *options, '--cfg-options',
             'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
             'train_dataloader.batch_size=2',
             'default_hooks.logger.interval=1')
    return next((folder / work_dir).glob('*/*.log'))


def test_a_training_says_what_a_person_reads(workplace, monkeypatch, capfd):
    log = train(monkeypatch, workplace).read_text()
    said = ''.join(capfd.readouterr())
    for words in ('Epoch(train) [1][1/2]', 'eta: ', 'loss: ',
                  'coco/bbox_mAP', 'estimate: 2 steps of 2 images of 160',
                  'the whole log: '):
        assert words in said, words
    for words in ('System environment', 'default_scope', 'paramwise_options',
                  'Hooks will be executed', 'after calling `init_weights`',
                  'index created', 'HardDiskBackend', 'FileClient'):
        assert words not in said, words
    for words in ('System environment', 'default_scope', 'paramwise_options',
                  'Hooks will be executed', 'Epoch(train) [1][1/2]',
                  'index created', 'Average Precision'):
        assert words in log, words
    assert len(said.splitlines()) < 25, said


def test_the_old_amount_is_an_option(workplace, monkeypatch, capfd):
    train(monkeypatch, workplace, '--verbose')
    said = ''.join(capfd.readouterr())
    for words in ('System environment', 'default_scope', 'paramwise_options',
                  'Hooks will be executed'):
        assert words in said, words


def record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord('x', level, __file__, 1, text, (), None)


@pytest.mark.parametrize('level, text, shown', [
    (logging.INFO, 'Epoch(train)  [1][20/75]  lr: 1', True),
    (logging.INFO, 'Iter(val) [2/2]  mIoU: 70', True),
    (logging.INFO, 'Saving checkpoint at 1 epochs', True),
    (logging.INFO, 'Config:\nmodel = dict()', False),
    (logging.WARNING, '"FileClient" will be deprecated in future', False),
    (logging.WARNING, 'the loss is nan', True),
    (logging.ERROR, '"FileClient" will be deprecated in future', True),
])
def test_the_filter(level, text, shown):
    assert Screen().filter(record(level, text)) == shown


def test_a_warning_is_shown_once():
    screen = Screen()
    assert screen.filter(record(logging.WARNING, 'odd'))
    assert not screen.filter(record(logging.WARNING, 'odd'))


def test_warnings_of_libraries_are_in_the_file_and_ours_on_the_screen(
        tmp_path, capsys):
    logger = MMLogger.get_instance('quiet', log_file=str(tmp_path / 'x.log'))
    with warnings.catch_warnings(record=True) as seen, quiet():
        warnings.simplefilter('always')
        warnings.warn('of a library', stacklevel=1)
        warnings.warn('mmqsdt was not tested with', stacklevel=1)
        from pycocotools import coco
        coco.print('index created!')
    print_log('after', logger)
    said, log = ''.join(capsys.readouterr()), (tmp_path / 'x.log').read_text()
    assert 'of a library' in log and 'of a library' not in said
    assert 'index created' in log and 'index created' not in said
    assert [str(w.message) for w in seen] == ['mmqsdt was not tested with']
    assert 'print' not in vars(coco)
