"""Work in another thread: its result, its errors, and its end when the wait is interrupted."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

import pytest

from localvit.system.threads import in_own_thread


def test_the_result_and_errors_of_another_thread_come_back() -> None:
    assert in_own_thread(lambda check: threading.current_thread()) is not threading.current_thread()

    def fails(check: Callable[[], None]) -> None:
        check()
        raise ZeroDivisionError("nothing")

    with pytest.raises(ZeroDivisionError, match="nothing"):
        in_own_thread(fails)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no timers that send signals")
def test_the_work_has_ended_when_an_interruption_goes_on() -> None:
    ended: list[BaseException] = []

    def endless(check: Callable[[], None]) -> None:
        try:
            while True:
                check()
                time.sleep(0.01)
        except BaseException as error:
            ended.append(error)
            raise

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_own_thread(endless)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [type(error) for error in ended] == [CancelledError]
