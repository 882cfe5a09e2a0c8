"""Trains the runs of a study: starts them in order, watches them, and stops them when a signal arrives.

A back end decides where: in processes of this machine, or on a Ray cluster.
"""

import contextlib
import csv
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, Self

from localvit.studies.config import StudyRun
from localvit.studies.record import ERROR, Outcome, outcome_of
from localvit.system.errors import Interrupted
from localvit.system.files import write_text
from localvit.training import read_result
from localvit.training.run_folder import METRICS

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_BETWEEN_READINGS = 0.5
# A file that another machine wrote may appear late on a network file system.
_SECONDS_FOR_RESULT = 60.0


class Backend(Protocol):
    """Where runs are trained. As a context manager, it ends what it has started."""

    def start(self, run: StudyRun) -> None:
        """Train a run in its folder."""

    def free(self) -> int:
        """Number of runs that may start now."""

    def ended(self, seconds: float = 0.0) -> list[tuple[StudyRun, str | None]]:
        """Wait up to ``seconds`` until a run ends. Returns the runs that have ended, and the errors of failed ones."""

    def stop(self) -> None:
        """Stop all runs, after they have saved their state."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Observer(Protocol):
    """Learns about the progress of runs."""

    def started(self, run: StudyRun) -> None:
        """The back end has taken a run."""

    def epochs(self, run: StudyRun, count: int, last: Mapping[str, float]) -> None:
        """A run has completed ``count`` epochs, earlier calls included; ``last`` has the latest of each metric."""

    def ended(self, run: StudyRun, outcome: Outcome) -> None:
        """A run has finished or failed. It never started if the run that it starts from failed."""


def train_runs(runs: Sequence[StudyRun], backend: Backend, observer: Observer) -> None:
    """Train or resume all runs without a result, and the runs that they start from.

    A failed run leaves its error in its folder, and the others go on. The next call tries it again.

    Args:
        runs: the runs of one or more studies. Runs with the same folder are the same run.
        backend: already entered. It is stopped if this function raises.
        observer: learns about the runs, in this thread.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once all runs have saved their state. A second Ctrl-C does not wait for that.
        Interrupted: the same after SIGTERM.
    """
    schedule = _Schedule(runs, backend, observer)
    with _StopRequests() as stop_requests:
        try:
            while not schedule.done:
                schedule.start()
                ended = backend.ended(_SECONDS_BETWEEN_LOOKS)
                stop_requests.check()  # a signal to all processes ends runs too, which have not failed
                schedule.advance(ended)
            stop_requests.check()
        except BaseException:
            backend.stop()
            raise


def shard(runs: Sequence[StudyRun], index: int, count: int) -> list[StudyRun]:
    """One machine's share of the runs. A run and the runs that start from it stay together.

    Args:
        runs: all runs, the same on every machine.
        index: number of the share, from 1.
        count: number of shares.
    """
    groups: dict[Path, list[StudyRun]] = {}
    for run in _distinct(runs):
        first = run
        while first.after is not None:
            first = first.after
        groups.setdefault(first.folder, []).append(run)
    return [run for group in [*groups.values()][index - 1 :: count] for run in group]


def parse_shard(text: str) -> tuple[int, int]:
    """Parse ``INDEX/COUNT``: ``2/8`` is the second of eight shares.

    Raises:
        ValueError: for anything else, and for an index outside 1 to ``COUNT``.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise ValueError(f"shard is {text!r}; it must be two numbers such as 2/8, the second of eight shares")
    if not 1 <= int(index) <= int(count):
        raise ValueError(f"shard is {text!r}; the first number must be 1 to {int(count)}, the number of shares")
    return int(index), int(count)


def _distinct(runs: Sequence[StudyRun]) -> list[StudyRun]:
    """Each run once."""
    return [*{run.folder: run for run in reversed(runs)}.values()][::-1]


def _with_starts(run: StudyRun) -> list[StudyRun]:
    return [*([] if run.after is None else _with_starts(run.after)), run]


class _Schedule:
    """The runs that wait, are being trained, or have ended."""

    def __init__(self, runs: Sequence[StudyRun], backend: Backend, observer: Observer) -> None:
        runs = _distinct([run for last in runs for run in _with_starts(last)])
        self.backend, self.observer = backend, observer
        self.waiting = [run for run in runs if read_result(run.folder) is None]
        self.running: dict[Path, _Progress] = {}
        self.errors: dict[Path, str] = {}
        self.finished = {run.folder for run in runs} - {run.folder for run in self.waiting}

    @property
    def done(self) -> bool:
        return not self.waiting and not self.running

    def start(self) -> None:
        """Start as many runs as the back end takes."""
        free = self.backend.free()
        for run in [*self.waiting]:
            if run.after is not None and (error := self.errors.get(run.after.folder)) is not None:
                self.waiting.remove(run)
                self._end(run, f"the run it starts from failed: {error}")
            elif free > 0 and (run.after is None or run.after.folder in self.finished):
                free -= 1
                self.waiting.remove(run)
                (run.folder / ERROR).unlink(missing_ok=True)
                self.backend.start(run)
                self.running[run.folder] = _Progress(run)
                self.observer.started(run)

    def advance(self, ended: Sequence[tuple[StudyRun, str | None]]) -> None:
        """Report progress, and settle the runs that have ended."""
        for run, error in ended:
            self.running[run.folder].end(error)
        for progress in [*self.running.values()]:
            progress.read(self.observer)
            if progress.settled:
                del self.running[progress.run.folder]
                self._end(progress.run, progress.error)

    def _end(self, run: StudyRun, error: str | None) -> None:
        if error is None:
            self.finished.add(run.folder)
            (run.folder / ERROR).unlink(missing_ok=True)  # another study may have left it
        else:
            self.errors[run.folder] = error
            write_text(run.folder / ERROR, error + "\n")
        self.observer.ended(run, outcome_of(run))


@dataclass
class _Progress:
    """The progress of a run, read from its folder: the only thing that all machines see."""

    run: StudyRun
    epochs: int = 0
    next_reading: float = field(default_factory=time.monotonic)
    ended: float | None = None
    error: str | None = None

    def end(self, error: str | None) -> None:
        """Note that the back end reports the end of the run."""
        self.ended, self.error, self.next_reading = time.monotonic(), error, 0.0

    @property
    def settled(self) -> bool:
        """Whether the outcome of the run is known."""
        if self.ended is None:
            return False
        if self.error is None and read_result(self.run.folder) is None:
            any(self.run.folder.glob("*.json"))  # makes a network file system look again
            if time.monotonic() - self.ended < _SECONDS_FOR_RESULT:
                return False
            self.error = (
                f"the run ended without a result in {self.run.folder}; --output must be on storage that all machines "
                "share under the same path"
            )
        return True

    def read(self, observer: Observer) -> None:
        """Report epochs completed since the last call."""
        if (now := time.monotonic()) < self.next_reading:
            return
        self.next_reading = now + _SECONDS_BETWEEN_READINGS
        try:
            rows = [*csv.DictReader((self.run.folder / METRICS).read_text().splitlines())]
        except OSError:  # not written yet, or just being replaced
            return
        if len(rows) != self.epochs:
            self.epochs = len(rows)
            # Epochs that were not evaluated have no accuracy.
            latest = {name: float(value) for row in rows for name, value in row.items() if value}
            observer.epochs(self.run, len(rows), latest)


class _StopRequests(contextlib.AbstractContextManager["_StopRequests"]):
    """Holds Ctrl-C and SIGTERM back until it is safe to stop. Once stopping, another Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.stopping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def check(self) -> None:
        """Raise if a signal has arrived."""
        self.stopping = self.number is not None
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise Interrupted(self.number)
