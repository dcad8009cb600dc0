"""Short forms; ``make torture`` has 100,000 inputs."""

import os
import signal
import time

import pytest
import torch

from experiments.torture import fuzz
from experiments.torture.budget import Budget
from mmqsdt.checkpoints.convert import convert_reference_checkpoint


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('reader', [fuzz.fuzz_packed, fuzz.fuzz_checkpoints])
def test_mutated_files_are_refused_or_read(reader, tmp_path):
    refused, wrong = reader(tmp_path, 300)
    assert refused > 150 and not wrong


def test_mutated_weights_are_refused_or_converted(tmp_path):
    refused, wrong = fuzz.fuzz_converter(tmp_path, 500)
    assert 100 < refused < 500 and not wrong


@pytest.mark.parametrize('change, words', [
    (lambda s: s.pop('head.weight'), 'head.fc.step_size has no weight'),
    (lambda s: s.update({'head.alpha': torch.ones(3)}), 'one step size for'),
    (lambda s: s.update({'head.alpha': torch.ones(10, dtype=torch.int64)}),
     'int64'),
])
def test_step_sizes_that_do_not_fit_are_refused(change, words):
    state = fuzz.reference_weights()
    convert_reference_checkpoint(state)
    change(state)
    with pytest.raises(ValueError, match=words):
        convert_reference_checkpoint(state)


@pytest.mark.parametrize('end, number, expected', [
    (lambda: None, 3, (3, [])),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), 0,
     (0, ['the reader ended with 137'])),
    (lambda: time.sleep(60), 0, (0, ['the reader ended with hung'])),
])
def test_readers_that_crash_or_hang_are_noticed(end, number, expected,
                                                tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, 'PATIENCE', 1)

    def fuzzer(folder, number, budget):
        end()
        return fuzz.fuzz(len, bytes, number, (), budget)

    assert fuzz.fuzz_apart(tmp_path, fuzzer, number, Budget(1)) == expected


def test_the_fuzzer_notices_what_is_wrong():
    def read(data: bytes) -> None:
        raise KeyError(data)

    refused, wrong = fuzz.fuzz(read, bytes, 3, (ValueError, ))
    assert (refused, len(wrong)) == (0, 3)
