import logging
import os
import pickle
import sys
from functools import partial

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from experiments.torture.hostile import Payload, check_broken, check_hostile
from experiments.torture.training import log_of, run, train
from mmqsdt.checkpoints.read import read_checkpoint, reading_once
from mmqsdt.checkpoints.resume import (
    check_fits,
    find_checkpoint,
    find_checkpoints,
    guard_loading,
    last_good_checkpoint,
    set_resume,
)
from mmqsdt.cli.common import check_length


def save(path, value=1., **more):
    content = dict(
        meta=dict(epoch=1, iter=3, seed=5),
        state_dict=dict(weight=torch.full((2, 2), value),
                        bias=torch.zeros(2)),
        message_hub={}, optimizer={}, **more)
    torch.save(content, path)
    return str(path)


WAYS = ['train --resume PATH', 'train resume=True', 'train load_from',
        'train init_cfg', 'train teacher', 'test', 'convert_checkpoint',
        'visualize']


@pytest.mark.parametrize('way', WAYS)
def test_code_in_a_checkpoint_is_never_executed(workplace, way):
    given, wrong = check_hostile(workplace, [way], ('zip', 'config'))
    assert given and not wrong


def test_broken_checkpoints_give_one_clear_error(workplace):
    given, wrong = check_broken(workplace, ['empty', 'nan', 'wrong shape'])
    assert given == 8 and not wrong


def test_the_unsafe_second_try_is_reached_by_the_flag_alone(tmp_path):
    path, mark = tmp_path / 'x.pth', tmp_path / 'executed'
    torch.save(dict(weight=torch.ones(1), hook=Payload(mark)), path)
    guard_loading()
    for read in (lambda: CheckpointLoader.load_checkpoint(str(path)),
                 lambda: load_checkpoint(nn.Linear(1, 1), str(path)),
                 lambda: torch.load(path, weights_only=False)):
        with pytest.raises((ValueError, pickle.UnpicklingError)):
            read()
        assert not mark.exists()
    # The list of those that mmengine reads from elsewhere has a getattr.
    assert getattr not in mmengine_checkpoint.get_torch_safe_globals()
    guard_loading(unsafe=True)
    CheckpointLoader.load_checkpoint(str(path))['hook'].close()
    assert mark.exists()
    guard_loading()


def test_checkpoints_are_found_newest_first(tmp_path):
    for name in ('epoch_9.pth', 'epoch_10.pth', 'best_acc.pth', 'iter_3.pth'):
        (tmp_path / name).touch()
    names = ['epoch_10.pth', 'epoch_9.pth', 'iter_3.pth']
    assert find_checkpoints(tmp_path) == [str(tmp_path / n) for n in names]
    # The folder was moved since.
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_9.pth')
    assert find_checkpoints(tmp_path)[0] == str(tmp_path / 'epoch_9.pth')
    (tmp_path / 'last_checkpoint').write_bytes(b'\0' * 40)  # a power cut
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_10.pth')


def test_checkpoints_of_another_out_dir_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ('run', 'out/run'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'epoch_9.pth').touch()  # of another training
    paths = [f'out/run/epoch_{n}.pth' for n in (2, 3, 1)]
    for path in paths:
        (tmp_path / path).touch()
    (tmp_path / 'run/last_checkpoint').write_text(paths[0])
    assert find_checkpoints('run') == paths
    (tmp_path / 'run/last_checkpoint').write_text('epoch_9.pth')
    assert find_checkpoints('run') == []


def test_a_training_is_not_resumed_from_elsewhere(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    with pytest.raises(ValueError, match='s3://x/y.pth: download it first'):
        set_resume(cfg, 's3://x/y.pth')


def test_the_last_good_checkpoint_is_taken_with_a_warning(tmp_path, caplog):
    good = save(tmp_path / 'epoch_1.pth')
    data = bytearray((tmp_path / 'epoch_1.pth').read_bytes())
    data[data.index(torch.ones(4).numpy().tobytes())] ^= 1  # of a weight
    (tmp_path / 'epoch_2.pth').write_bytes(data)
    save(tmp_path / 'epoch_3.pth', float('nan'))
    (tmp_path / 'epoch_4.pth').write_bytes(b'')
    torch.save(dict(state_dict={}), tmp_path / 'epoch_5.pth')
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    from mmengine.logging import MMLogger
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    assert last_good_checkpoint(tmp_path) == good
    logger.removeHandler(handler)
    for words in ('cannot be resumed from', 'is empty', 'not finite',
                  'checksum'):
        assert sum(words in line for line in lines) == 1
    (tmp_path / 'epoch_1.pth').unlink()
    with pytest.raises(ValueError, match='none of the 4 checkpoints'):
        last_good_checkpoint(tmp_path)


def test_resuming_takes_the_seed_of_the_run(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), load_from='x.pth'))
    set_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (False, 'x.pth')  # a fresh start
    path = save(tmp_path / 'epoch_1.pth')
    set_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (True, path)
    assert cfg.randomness.seed == 5
    cfg.randomness.seed = 7
    set_resume(cfg, path)
    assert cfg.randomness.seed == 7


def test_what_is_loaded_must_fit(tmp_path):
    guard_loading()
    path = save(tmp_path / 'x.pth')
    cfg = Config(dict(load_from=path, resume=True))
    check_fits(nn.Linear(2, 2), cfg)
    with pytest.raises(ValueError, match='none of the 2 entries'):
        check_fits(nn.Linear(3, 3), cfg)
    with pytest.raises(ValueError, match=r'weight is \(2, 2\) in the file'):
        check_fits(nn.Linear(3, 2), cfg)
    cfg.resume = False
    check_fits(nn.Linear(3, 2), cfg)  # another head: mmengine warns
    torch.save(torch.ones(1), tmp_path / 'y.pth')
    cfg.load_from = str(tmp_path / 'y.pth')
    with pytest.raises(ValueError, match='y.pth holds no state dict'):
        check_fits(nn.Linear(2, 2), cfg)
    cfg.load_from = path
    save(tmp_path / 'x.pth', float('inf'))
    with pytest.raises(ValueError, match='4 of 4 values of weight'):
        check_fits(nn.Linear(2, 2), cfg)


@pytest.mark.parametrize('entry', [
    dict(max_epochs=0), dict(max_iters=-1), dict(max_epochs=1.5)
])
def test_a_training_of_nothing_is_refused(entry):
    with pytest.raises(ValueError, match='nothing would be trained'):
        check_length(Config(dict(train_cfg=entry)))
    check_length(Config(dict(train_cfg=dict(max_epochs=1))))


def test_paths_of_checkpoints_are_checked_first(tmp_path):
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        find_checkpoint(str(tmp_path / 'none.pth'))
    with pytest.raises(FileNotFoundError, match='no checkpoint in'):
        find_checkpoint(str(tmp_path))


def count_opens(name: str, folder) -> None:
    """Write a line for each time that this process opens a file."""
    def note(event: str, args: tuple) -> None:
        if event == 'open' and str(args[0]).endswith(name):
            os.write(log, b'.')

    log = os.open(folder / 'opens', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.addaudithook(note)


@pytest.mark.parametrize('tool, arguments, most', [
    ('train.py', ['--work-dir', 'opened', '--resume', '--cfg-options',
                  'train_cfg.max_epochs=4'], 2),
    ('train.py', ['--work-dir', 'other', '--cfg-options',
                  'load_from=opened/epoch_3.pth', 'train_cfg.max_epochs=1'],
     2),
    ('test.py', ['opened/epoch_3.pth', '--work-dir', 'other'], 1)])
def test_a_checkpoint_is_opened_no_more_than_needed(tool, arguments, most,
                                                    workplace):
    """Before the training for all questions at once, then to be loaded."""
    path = workplace / 'opened/epoch_3.pth'
    if not path.exists():
        assert not train(workplace, 'epochs', 'opened'), log_of(workplace)
    assert not run(workplace, tool, 'epochs.py', *arguments,
                   inject=partial(count_opens, path.name, workplace)), \
        log_of(workplace)
    assert 0 < (workplace / 'opens').stat().st_size <= most


def test_what_is_kept_is_not_kept_for_another_file(tmp_path):
    path = tmp_path / 'x.pth'
    save(path)
    with reading_once():
        first = read_checkpoint(path)
        with reading_once():
            assert read_checkpoint(path) is first
        assert read_checkpoint(path) is first
        save(path, 2., more=1)
        assert read_checkpoint(path)['state_dict']['bias'] is not \
            first['state_dict']['bias']
    assert read_checkpoint(path) is not read_checkpoint(path)
