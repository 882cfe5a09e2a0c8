"""How the tests share the machine, and fixtures of more than one file."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_WORKERS = os.environ.get("PYTEST_XDIST_WORKER_COUNT")


def _cores() -> int:
    # Repeats localvit.system.machine.cores: importing the package would load PyTorch before its threads are set.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if _WORKERS is not None:
    # Workers that each compute on all cores slow each other down. Child processes inherit the limit.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // int(_WORKERS))))


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One worker per core; none for tests named one by one, which would only wait for a worker to start."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    if config.args and all("::" in argument for argument in config.args):
        return 0
    return _cores()


@pytest.fixture(autouse=True)
def as_urgent_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let loader processes compete with the other tests, which they would otherwise wait for; a fork inherits this."""
    if hasattr(os, "nice"):
        monkeypatch.setattr(os, "nice", lambda increment: 0)


@pytest.fixture(autouse=True, scope="session")
def heeds_ctrl_c() -> None:
    """Some tests send SIGINT, which a shell makes a command in its background ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def largest_file() -> "Iterator[Callable[[int], None]]":
    """Limits the size of files in bytes, which is what a process without a disk of its own can have of a full one."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the machine's peak rate with matrices that multiply in no time."""
    from localvit.benchmark import rate

    monkeypatch.setitem(rate._SIDES, "cpu", 256)


class Clock:
    """Advances when someone sleeps, and at no other time: a busy machine cannot disturb it."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that measures turns."""
    from localvit.benchmark.measurement import turns

    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    return clock


@pytest.fixture
def processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure turns in processor time: waiting for a busy processor does not count."""
    from localvit.benchmark.measurement import turns

    monkeypatch.setattr(turns.time, "perf_counter", time.process_time)
