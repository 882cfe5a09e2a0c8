"""Runs trials in a child process with limits, so that a blow-up, a hang or a crash is seen and not suffered."""

import contextlib
import ctypes
import faulthandler
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from campaign import Campaign

# Memory that a child may take beyond what it has at its start. More than any claim allows, so that the use is measured.
HEADROOM_GIB = 6
_SHOWN_LINES = 12
# So many times as long as it may compute, a process may take in all.
_MOST_WAITING = 10
_SECONDS_BETWEEN_LOOKS = 0.01


@dataclass
class Verdict:
    """What a trial showed.

    Attributes:
        kinds: what kind of trial it was, and how it ended.
        figures: measured quantities; each name states the unit.
        failures: what did not show the claim.
    """

    kinds: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def note(campaign: Campaign, verdict: Verdict) -> None:
    """Put the verdict of a trial into the log."""
    for kind in verdict.kinds:
        campaign.saw(kind)
    for quantity, value in verdict.figures.items():
        campaign.measured(quantity, round(value, 2))
    for failure in verdict.failures:
        campaign.failed(failure)


class Child:
    """A context with a process that tries one trial after another, and is replaced if it dies or hangs.

    Args:
        prepare: called in the child once; gives the function of a trial.
        seconds: a trial that takes more processor time hangs, and so does one that waits ten times as long.
    """

    def __init__(self, prepare: Callable[[], Callable[[int], Verdict]], seconds: float) -> None:
        self.prepare, self.seconds = prepare, seconds
        self.process: Any = None

    def verdict(self, trial: int) -> Verdict:
        """The verdict of a trial. A death and a hang are failures."""
        try:
            if self.process is None:
                self._start()
            start = time.monotonic()
            self.connection.send(trial)
            if not self._ends_in_time():
                os.kill(self.process.pid, signal.SIGABRT)  # says where it is
                self.process.join(5)
                self.process.kill()
                return self._ended(f"hangs: no end after {self.seconds:g} s of processor time, or long waiting")
            verdict: Verdict = self.connection.recv()
        except (EOFError, OSError):
            return self._ended("ends the process")
        verdict.figures["seconds of a trial"] = time.monotonic() - start
        return verdict

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None
            self.said.unlink()

    def _ends_in_time(self) -> bool:
        """Wait for the verdict. On a busy machine a process waits for the processor, which is no fault of it."""
        start, used = time.monotonic(), processor_seconds(self.process.pid)
        while not self.connection.poll(1):
            if processor_seconds(self.process.pid) > used + self.seconds:
                return False
            if time.monotonic() > start + _MOST_WAITING * self.seconds:
                return False
        return True

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")  # the modules are loaded, and no thread computes yet
        self.connection, theirs = context.Pipe()
        self.said = Path(tempfile.mkstemp(prefix="localvit-campaign-")[1])
        self.process = context.Process(target=_serve, args=(theirs, self.connection, self.prepare, self.said))
        self.process.start()
        theirs.close()
        self.connection.recv()

    def _ended(self, what: str) -> Verdict:
        self.process.join()
        code = self.process.exitcode
        died = f" by {signal.Signals(-code).name}" if code < 0 else f" with status {code}"
        self.connection.close()
        self.process = None
        lines = self.said.read_text(errors="replace").splitlines()[:_SHOWN_LINES]
        self.said.unlink()
        return Verdict(failures=[f"{what}{died}: {' | '.join(lines)}"])


def _serve(connection: Connection, theirs: Connection, prepare: Callable[[], Any], said: Path) -> None:
    theirs.close()
    with said.open("wb") as file:
        os.dup2(file.fileno(), 2)
    warnings.simplefilter("ignore")
    logging.disable()
    faulthandler.enable(sys.__stderr__ or sys.stderr)
    tried = prepare()
    limit_memory()
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            trial = connection.recv()
            try:
                verdict = tried(trial)
            except Exception:
                verdict = Verdict(
                    failures=["raises " + " | ".join(traceback.format_exc().splitlines()[-_SHOWN_LINES:])]
                )
            connection.send(verdict)


def processor_seconds(process: int) -> float:
    """Processor time that a process has used in all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def limit_memory(gib: float = HEADROOM_GIB) -> None:
    """Let this process take so much more memory than now; beyond that, allocations fail."""
    most = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize() + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


@dataclass
class Peak:
    """Memory of a block.

    Attributes:
        mib: what the process took beyond what it had before the block, in MiB, once the block has ended.
    """

    mib: float = 0.0


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the peak of the memory that this process has in RAM during a block. Linux only."""
    peak = Peak()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before, the C library may keep for the thread that freed it
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _mib("self", "VmRSS")
    try:
        yield peak
    finally:
        peak.mib = _mib("self", "VmHWM") - before


def _mib(process: object, name: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    line = next((line for line in status.splitlines() if line.startswith(name)), f"{name}: 0 kB")
    return int(line.split()[1]) / 1024


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: exit status; 128 more than a signal's number is its negative, as in :mod:`subprocess`. None if it hung.
        out: what it wrote to standard output.
        err: what it wrote to standard error.
        mib: its peak memory in RAM, in MiB.
    """

    status: int | None
    out: str
    err: str
    mib: float


def run_command(arguments: Sequence[str], *, seconds: float, folder: Path | None = None) -> Ended:
    """Run ``localvit`` with arguments, as a user does, and end it after so many seconds.

    Args:
        arguments: of the command line.
        seconds: a command that takes longer hangs.
        folder: where it runs.
    """
    peak = 0.0
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = [sys.executable, "-m", "localvit", *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, cwd=folder)
        hung = threading.Event()

        def end() -> None:
            hung.set()
            process.kill()

        watch = threading.Timer(seconds, end)
        watch.start()
        while process.poll() is None:
            with contextlib.suppress(OSError):
                peak = max(peak, _mib(process.pid, "VmHWM"))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        watch.cancel()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
        return Ended(None if hung.is_set() else process.returncode, texts[0], texts[1], peak)
