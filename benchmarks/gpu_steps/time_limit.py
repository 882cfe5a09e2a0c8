"""Stops what takes longer than it may, in the process in which it runs."""

import signal
from types import FrameType

_SECONDS_BETWEEN_ALARMS = 5.0  # an exception in a finalizer is swallowed; the next alarm raises again


class OutOfTime(BaseException):
    """The time is up. Not an ``Exception``: whoever notes those as the failure of a contestant must let this pass."""


class TimeLimit:
    """Raises :class:`OutOfTime` inside the block once the seconds have passed, and again while the block goes on.

    In the main thread only.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.over = max(seconds, 0.001), False

    def __enter__(self) -> None:
        self.before = signal.signal(signal.SIGALRM, self._stop)
        signal.setitimer(signal.ITIMER_REAL, self.seconds, _SECONDS_BETWEEN_ALARMS)

    def __exit__(self, *error: object) -> None:
        self.over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # discards an alarm that is on its way
        signal.signal(signal.SIGALRM, self.before)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # Raising at the end of __enter__ or the start of __exit__ would leave the timer running.
        ours = (TimeLimit.__enter__.__code__, TimeLimit.__exit__.__code__)
        if not self.over and (frame is None or frame.f_code not in ours):
            raise OutOfTime
