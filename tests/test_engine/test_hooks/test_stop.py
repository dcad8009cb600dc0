import os
import signal
import time
from multiprocessing import get_context

from experiments.torture.interruption import (
    check_full_disk,
    check_second_signal,
)
from mmqsdt.engine.hooks.stop import StopSignalHook


def test_a_second_signal_stops_at_once(workplace):
    assert check_second_signal(workplace) == (1, [])


def test_a_full_disk_gives_a_clear_error_and_leaves_the_last(workplace):
    assert check_full_disk(workplace) == (1, [])


def test_children_forked_in_a_training_can_be_ended():
    """As pools of an evaluation are, by SIGTERM: mmdet's VOCMetric.

    Some come at once, when Python would drop them; a pool waits for ever.
    """
    context = get_context('fork')
    hook = StopSignalHook()
    hook.before_train(None)
    try:
        for delay in [0.] * 20 + [0.2]:
            child = context.Process(target=time.sleep, args=(60, ))
            child.start()
            time.sleep(delay)
            child.terminate()
            child.join(20)
            assert child.exitcode == -signal.SIGTERM
    finally:
        hook.after_train(None)
    assert not hook._received


def test_a_signal_that_comes_with_a_fork_stops_the_training():
    hook = StopSignalHook()
    hook.before_train(None)
    try:
        child = get_context('fork').Process(
            target=os.kill, args=(os.getpid(), signal.SIGTERM))
        child.start()
        child.join(20)
        assert hook._received == signal.SIGTERM
    finally:
        hook.after_train(None)
