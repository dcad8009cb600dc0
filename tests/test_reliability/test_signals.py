import signal
import time
from multiprocessing import get_context

from torture.interruption import check_full_disk, check_second_signal

from mmqsdt.reliability.stop import StopSignalHook


def test_a_second_signal_stops_at_once(workplace):
    assert check_second_signal(workplace) == (1, [])


def test_a_full_disk_gives_a_clear_error_and_leaves_the_last(workplace):
    assert check_full_disk(workplace) == (1, [])


def test_children_forked_in_a_training_can_be_ended():
    """As pools of an evaluation are, by SIGTERM: mmdet's VOCMetric."""
    context = get_context('fork')
    runs = context.Event()  # Python drops signals that come with the fork

    def run() -> None:
        runs.set()
        time.sleep(60)

    hook = StopSignalHook()
    hook.before_train(None)
    try:
        child = context.Process(target=run)
        child.start()
        assert runs.wait(20)
        child.terminate()
        child.join(20)
        assert child.exitcode == -signal.SIGTERM
    finally:
        hook.after_train(None)
    assert not hook._received
