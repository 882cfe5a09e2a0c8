"""Trains runs on this machine, in a few processes that take one run after another."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, Self

import torch

from localvit.studies.config import StudyRun
from localvit.studies.running import worker
from localvit.system import processes
from localvit.system.errors import Interrupted
from localvit.system.machine import share_of_cores

_SECONDS_TO_SAVE = 30.0


class LocalBackend:
    """Processes that train one run after another, because starting one and warming it up takes seconds.

    If the system kills a process, the others go on. On a machine with GPUs, each process uses one of them, and the
    processes share them evenly. All processes end when this one does, for whatever reason.

    Args:
        jobs: number of processes.
        threads: PyTorch threads of each, for runs that do not set their own. By default they share the cores.
    """

    def __init__(self, jobs: int, threads: int | None = None) -> None:
        gpus = _gpus()
        threads = threads or share_of_cores(jobs)
        self._slots = [_Slot(threads, gpus[job % len(gpus)] if gpus else None) for job in range(jobs)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def free(self) -> int:
        """Number of runs that may start now."""
        return sum(slot.run is None for slot in self._slots)

    def start(self, run: StudyRun) -> None:
        """Train a run in a free process."""
        next(slot for slot in self._slots if slot.run is None).start(run)

    def ended(self, seconds: float = 0.0) -> list[tuple[StudyRun, str | None]]:
        """Wait up to ``seconds`` until a run ends. Returns the runs that have ended, and the errors of failed ones."""
        if signals := [one for slot in self._slots for one in slot.ends()]:
            connection.wait(signals, seconds)
        else:
            time.sleep(seconds)
        return [ended for slot in self._slots if (ended := slot.ended()) is not None]

    def stop(self) -> None:
        """Stop the processes. Each has half a minute to save its state."""
        try:
            for slot in self._slots:
                slot.terminate()
            deadline = time.monotonic() + _SECONDS_TO_SAVE
            for slot in self._slots:
                slot.wait(deadline)
        finally:  # even if Ctrl-C is pressed again
            for slot in self._slots:
                slot.kill()


class _Slot:
    """Room for one process and its run."""

    def __init__(self, threads: int, gpu: str | None) -> None:
        self.threads = threads
        self.variables = worker.ALONE | {"OMP_NUM_THREADS": str(threads)}
        if gpu is not None:
            self.variables["CUDA_VISIBLE_DEVICES"] = gpu
        self.run: StudyRun | None = None
        self.process: BaseProcess | None = None
        self.connection: connection.Connection[Any, Any]

    def start(self, run: StudyRun) -> None:
        if self.process is None or not self.process.is_alive():
            self._start_process()
        try:
            self.connection.send((run.config, run.folder))
        except OSError:  # the process was killed while idle
            self._start_process()
            self.connection.send((run.config, run.folder))
        self.run = run

    def _start_process(self) -> None:
        self.kill()
        # Not a daemon, because a run may start processes that load images.
        self.process, self.connection = processes.start(
            _serve, dict(os.environ) | self.variables, self.threads, module=worker.__name__, daemon=False
        )

    def ends(self) -> list["connection.Connection[Any, Any] | int"]:
        """What becomes ready when the run ends."""
        return [] if self.run is None or self.process is None else [self.connection, self.process.sentinel]

    def ended(self) -> tuple[StudyRun, str | None] | None:
        if self.run is None or self.process is None:
            return None
        alive = self.process.is_alive()
        if not self.connection.poll():
            if alive:
                return None
            error: str | None = _why(self.process)
        else:
            try:
                error = self.connection.recv()
            except (EOFError, OSError):
                self.process.join()
                error = _why(self.process)
        run, self.run = self.run, None
        return run, error

    def terminate(self) -> None:
        if self.process is None:
            return
        if self.run is not None:
            self.process.terminate()
        # Ends an idle process, which cleans up, and one whose run ends before it notices the signal.
        self.connection.close()

    def wait(self, deadline: float) -> None:
        if self.process is not None:
            self.process.join(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
        self.process = self.run = None


def _why(process: BaseProcess) -> str:
    """Explain why a process has ended unexpectedly."""
    code = process.exitcode or 0
    number = -code if code < 0 else code - 128
    if number == getattr(signal, "SIGKILL", None):
        return "the process was killed, probably out of memory; try fewer --jobs"
    try:
        return f"the process was stopped by {signal.Signals(number).name}; run the same command again to resume"
    except ValueError:
        return f"the process ended with exit code {code}; run the same command again to resume"


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else [str(index) for index in range(count)]


def _serve(requests: "connection.Connection[Any, Any]", variables: Mapping[str, str], threads: int) -> None:
    """Train the runs that are requested, until the process that requests them is gone."""
    os.environ.update(variables)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            config, folder = requests.recv()
            requests.send(worker.train(config, folder, threads))
        except (EOFError, OSError):
            return
        except Interrupted as interrupted:
            raise SystemExit(128 + interrupted.signal_number) from None


def _end_with_parent() -> None:
    """End this process at once when its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
