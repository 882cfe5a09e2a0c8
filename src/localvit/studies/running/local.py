"""Trains runs on this machine, each in a process of its own."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing import connection
from typing import Any, Self

import torch

from localvit.studies.config import StudyRun
from localvit.studies.running.worker import ALONE, train
from localvit.system.errors import Interrupted
from localvit.system.machine import share_of_cores

_SPAWN = multiprocessing.get_context("spawn")  # PyTorch's threads and GPUs do not survive a fork
_SECONDS_TO_SAVE = 30.0


class LocalBackend:
    """Several processes that take one run after another: to start one takes seconds.

    A process that the system kills takes no other along. Where there are GPUs, each process has one, and processes
    share them evenly. The processes end with the one that started them, however it ends.

    Args:
        jobs: processes.
        threads: that PyTorch may use in each, unless a run says how many; by default the cores are shared out.
    """

    def __init__(self, jobs: int, threads: int | None = None) -> None:
        gpus = _gpus()
        self._slots = [
            _Slot(threads or share_of_cores(jobs), gpus[job % len(gpus)] if gpus else None) for job in range(jobs)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def free(self) -> int:
        """How many more runs may start now."""
        return sum(slot.run is None for slot in self._slots)

    def start(self, run: StudyRun) -> None:
        """Train a run in a free process."""
        next(slot for slot in self._slots if slot.run is None).start(run)

    def ended(self) -> list[tuple[StudyRun, str | None]]:
        """The runs that have ended since this was asked last, with what was wrong with those that failed."""
        return [ended for slot in self._slots if (ended := slot.ended()) is not None]

    def stop(self) -> None:
        """End the processes when they have saved their state, or after half a minute."""
        try:
            for slot in self._slots:
                slot.terminate()
            deadline = time.monotonic() + _SECONDS_TO_SAVE
            for slot in self._slots:
                slot.wait(deadline)
        finally:  # also when Ctrl-C is pressed again
            for slot in self._slots:
                slot.kill()


class _Slot:
    """One process at a time, and what it is doing."""

    def __init__(self, threads: int, gpu: str | None) -> None:
        self.threads = threads
        self.environment = ALONE | {"OMP_NUM_THREADS": str(threads)}
        if gpu is not None:
            self.environment["CUDA_VISIBLE_DEVICES"] = gpu
        self.run: StudyRun | None = None
        self.process: multiprocessing.context.SpawnProcess | None = None

    def start(self, run: StudyRun) -> None:
        if self.process is None or not self.process.is_alive():
            self._start_process()
        try:
            self.connection.send((run.config, run.folder))
        except OSError:  # it was killed while it had nothing to do
            self._start_process()
            self.connection.send((run.config, run.folder))
        self.run = run

    def _start_process(self) -> None:
        self.kill()
        self.connection, other_end = _SPAWN.Pipe()
        # Data loaders have processes of their own, which processes of a daemon may not.
        self.process = _SPAWN.Process(target=_serve, args=(other_end, self.threads), daemon=False)
        with _interrupts_held_back(), _environment(self.environment):
            self.process.start()
        other_end.close()

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
        if self.process is not None:
            self.process.terminate()
            self.connection.close()  # should its run have taken the signal while finishing

    def wait(self, deadline: float) -> None:
        if self.process is not None:
            self.process.join(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
        self.process = self.run = None


def _why(process: multiprocessing.context.SpawnProcess) -> str:
    """Why a process has ended that should not have."""
    code = process.exitcode or 0
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL:
        return "its process was killed, perhaps for want of memory; fewer --jobs need less"
    try:
        return f"its process was ended by {signal.Signals(number).name}; the same command goes on with it"
    except ValueError:
        return f"its process ended by itself with exit code {code}; the same command goes on with it"


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else [str(index) for index in range(count)]


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started inside never get a Ctrl-C, which a terminal sends to all; this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes started inside have these variables: libraries read them as they are imported."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(requests: "connection.Connection[Any, Any]", threads: int) -> None:
    """Train the runs asked for, until the process that asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process stops it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            config, folder = requests.recv()
        except EOFError:
            return
        try:
            error = train(config, folder, threads)
        except Interrupted as interrupted:
            raise SystemExit(128 + interrupted.signal_number) from None
        try:
            requests.send(error)
        except OSError:
            return


def _end_with_parent() -> None:
    """End this process at once when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
