"""A clock for tests of what is timed, which a busy machine cannot disturb."""

import time

import pytest

from localvit.benchmark.measurement import turns


class Clock:
    """Advances when someone sleeps, and at no other time."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that takes times in ``take_turns``."""
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    return clock


@pytest.fixture
def processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take times on the processor alone: waiting for one that is busy does not count."""
    monkeypatch.setattr(turns.time, "perf_counter", time.process_time)
