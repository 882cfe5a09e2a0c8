"""Trains the runs of a study: which may start when, what becomes of each, and stopping when a signal asks for it.

Where they are trained is a back end's business: processes of this machine, or a Ray cluster.
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
# Network file systems show a file of another machine late.
_SECONDS_FOR_RESULT = 60.0


class Backend(Protocol):
    """Where runs are trained. As a context manager it ends what it has started."""

    def start(self, run: StudyRun) -> None:
        """Train a run in its folder."""

    def free(self) -> int:
        """How many more runs may start now."""

    def ended(self) -> list[tuple[StudyRun, str | None]]:
        """The runs that have ended since this was asked last, with what was wrong with those that failed."""

    def stop(self) -> None:
        """End all runs at once, letting them save their state."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Observer(Protocol):
    """Is told how runs go on."""

    def started(self, run: StudyRun) -> None:
        """A run was handed to the back end."""

    def epochs(self, run: StudyRun, count: int, last: Mapping[str, float]) -> None:
        """A run has done ``count`` epochs, earlier calls included; ``last`` has the metrics of the last."""

    def ended(self, run: StudyRun, outcome: Outcome) -> None:
        """A run has finished or failed; one whose start failed never started."""


def train_runs(runs: Sequence[StudyRun], backend: Backend, observer: Observer) -> None:
    """Train all runs that have no result yet, and those that they start from, each from where it was interrupted.

    A run that fails leaves its error in its folder and does not stop the others; the next call tries it again.

    Args:
        runs: of a study, or of several; runs of the same folder are the same run.
        backend: already entered; it is stopped where this function raises.
        observer: told how the runs go on, in this thread.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the state of all runs is saved. A second Ctrl-C does not wait for that.
        Interrupted: the same, after SIGTERM.
    """
    schedule = _Schedule(runs, backend, observer)
    with _StopRequests() as stop_requests:
        try:
            while not schedule.done:
                schedule.start()
                ended = backend.ended()
                stop_requests.check()  # a signal to all processes ends runs too, and those have not failed
                schedule.advance(ended)
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            stop_requests.check()
        except BaseException:
            backend.stop()
            raise


def shard(runs: Sequence[StudyRun], index: int, count: int) -> list[StudyRun]:
    """The part of ``runs`` that one of several machines trains. A run and those that start from it stay together.

    Args:
        runs: all of them, the same on every machine.
        index: which part, from 1.
        count: of parts.
    """
    groups: dict[Path, list[StudyRun]] = {}
    for run in _distinct(runs):
        first = run
        while first.after is not None:
            first = first.after
        groups.setdefault(first.folder, []).append(run)
    return [run for group in [*groups.values()][index - 1 :: count] for run in group]


def parse_shard(text: str) -> tuple[int, int]:
    """Index and count of a shard: ``2/8`` is the second of eight.

    Raises:
        ValueError: for anything else, or a shard that there is not.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise ValueError(f"shard is {text!r}; it must be two numbers such as 2/8, the second of eight parts")
    if not 1 <= int(index) <= int(count):
        raise ValueError(f"shard is {text!r}; the first number must be 1 to {int(count)}, the number of parts")
    return int(index), int(count)


def _distinct(runs: Sequence[StudyRun]) -> list[StudyRun]:
    """The runs, each once."""
    return [*{run.folder: run for run in reversed(runs)}.values()][::-1]


def _with_starts(run: StudyRun) -> list[StudyRun]:
    return [*([] if run.after is None else _with_starts(run.after)), run]


class _Schedule:
    """What waits, what is being trained, and what has ended."""

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
        """Start what may start."""
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
        """Tell what has happened, now that the back end says what has ended."""
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
            (run.folder / ERROR).unlink(missing_ok=True)  # another study may have failed with it meanwhile
        else:
            self.errors[run.folder] = error
            write_text(run.folder / ERROR, error + "\n")
        self.observer.ended(run, outcome_of(run))


@dataclass
class _Progress:
    """How far a run is, as its folder says: the only thing that all machines see."""

    run: StudyRun
    epochs: int = 0
    next_reading: float = field(default_factory=time.monotonic)
    ended: float | None = None
    error: str | None = None

    def end(self, error: str | None) -> None:
        """The back end says that the run has ended."""
        self.ended, self.error, self.next_reading = time.monotonic(), error, 0.0

    @property
    def settled(self) -> bool:
        """Whether it is known what became of the run."""
        if self.ended is None:
            return False
        if self.error is None and read_result(self.run.folder) is None:
            any(self.run.folder.glob("*.json"))  # has a network file system look anew
            if time.monotonic() - self.ended < _SECONDS_FOR_RESULT:
                return False
            self.error = (
                f"it has ended, and no result is in {self.run.folder}; --output must be on storage that all machines "
                "share under the same path"
            )
        return True

    def read(self, observer: Observer) -> None:
        """Tell of epochs that were done since the last time."""
        if (now := time.monotonic()) < self.next_reading:
            return
        self.next_reading = now + _SECONDS_BETWEEN_READINGS
        try:
            rows = [*csv.DictReader((self.run.folder / METRICS).read_text().splitlines())]
        except OSError:  # it is not there yet, or a network file system is replacing it
            return
        if len(rows) != self.epochs:
            self.epochs = len(rows)
            observer.epochs(self.run, len(rows), {name: float(value) for name, value in rows[-1].items() if value})


class _StopRequests(contextlib.AbstractContextManager["_StopRequests"]):
    """Notes Ctrl-C and SIGTERM until it is safe to stop; Ctrl-C while stopping is not noted, but raised."""

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
        """Raise where a signal has come."""
        self.stopping = self.number is not None
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise Interrupted(self.number)
