"""Work in a thread of its own that an interruption ends."""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


def in_own_thread(work: Callable[[Callable[[], None]], T]) -> T:
    """The result of work that does not run in this thread.

    Some libraries change the thread they are called in. OpenVINO gives it another stack for signals and may leave it
    with one that no longer exists: the next Ctrl-C would end the process with a segmentation fault.

    Args:
        work: gets a function to call now and then. It raises ``CancelledError`` once the wait was interrupted, for
            example by Ctrl-C.

    Raises:
        Exception: whatever the work raises, or interrupts the wait; then the work has ended.
    """
    stopped = Event()
    future: Future[T] = Future()

    def check() -> None:
        if stopped.is_set():
            raise CancelledError

    def run() -> None:
        try:
            future.set_result(work(check))
        except BaseException as error:
            future.set_exception(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        return future.result()
    finally:
        stopped.set()
        thread.join()
