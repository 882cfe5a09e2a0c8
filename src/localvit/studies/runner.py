"""Trains the runs of a study, several at a time, and starts none that has finished before."""

import contextlib
import multiprocessing
import os
import queue
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

from filelock import FileLock, Timeout

from localvit.errors import LocalViTError
from localvit.quiet import quiet
from localvit.studies.config import StudyConfig
from localvit.training import RunConfig, RunResult, read_result, run
from localvit.training.history import Epoch


class StudyError(LocalViTError):
    """A study that cannot go on; what has finished is kept."""


@dataclass(frozen=True)
class RunId:
    """Which run of a study."""

    variant: str
    seed: int

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


Runs = dict[RunId, RunResult]
OnEpoch = Callable[[RunId, Epoch], None]
OnResult = Callable[[RunId, RunResult], None]


def run_folder(study: StudyConfig, folder: Path, run_id: RunId) -> Path:
    """The folder of one run, whose name ends with the hash of its whole configuration."""
    config = _configs(study)[run_id]
    slug = re.sub(r"[^a-z0-9]+", "-", run_id.variant.lower()).strip("-")
    return folder / "runs" / f"{slug}-seed{run_id.seed}-{config.key()}"


def finished_runs(study: StudyConfig, folder: Path) -> Runs:
    """Results that earlier calls left in a study's folder."""
    results = {run_id: read_result(run_folder(study, folder, run_id)) for run_id in _configs(study)}
    return {run_id: result for run_id, result in results.items() if result is not None}


def train_missing_runs(study: StudyConfig, folder: Path, *, jobs: int, on_epoch: OnEpoch, on_result: OnResult) -> None:
    """Train all runs of a study that have no result yet, from where they were interrupted.

    Args:
        study: the study.
        folder: where its runs are kept.
        jobs: processes, each with the threads that the recipe says.
        on_epoch: told the metrics of each epoch.
        on_result: told the result of each run.

    Raises:
        StudyError: where another process works in this folder, or a run failed or was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finished = finished_runs(study, folder)
    pending = {run_id: config for run_id, config in _configs(study).items() if run_id not in finished}
    try:
        with FileLock(folder / ".lock", timeout=0):
            if pending:
                _train_in_processes(study, folder, pending, jobs, on_epoch, on_result)
    except Timeout as error:
        raise StudyError(
            f"another process is running a study in {folder}; wait for it, or choose another --output"
        ) from error


def _train_in_processes(
    study: StudyConfig,
    folder: Path,
    pending: dict[RunId, RunConfig],
    jobs: int,
    on_epoch: OnEpoch,
    on_result: OnResult,
) -> None:
    context = multiprocessing.get_context("spawn")
    events: Queue[tuple[RunId, Epoch]] = context.Queue()
    stop = context.Event()
    with ProcessPoolExecutor(
        min(jobs, len(pending)), mp_context=context, initializer=_start_worker, initargs=(events, stop)
    ) as pool:
        with _interrupts_ignored():
            futures = {
                pool.submit(_run_in_worker, run_id, config, run_folder(study, folder, run_id)): run_id
                for run_id, config in pending.items()
            }
        try:
            while futures:
                with contextlib.suppress(queue.Empty):
                    while True:
                        on_epoch(*events.get(timeout=0.1))
                for future in [future for future in futures if future.done()]:
                    on_result(run_id := futures.pop(future), _result(future, run_id))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _result(future: Future[RunResult], run_id: RunId) -> RunResult:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise StudyError(
            "a training process was killed, perhaps for want of memory (fewer --jobs need less). Finished runs are "
            "kept; the same command goes on"
        ) from error
    except Exception as error:
        raise StudyError(f"the run {run_id} failed: {error}. Finished runs are kept") from error


def _configs(study: StudyConfig) -> dict[RunId, RunConfig]:
    """Seed by seed, so that a study that is stopped half-way has whole seeds to compare."""
    return {
        RunId(variant.name, seed): study.run_config(variant, seed) for seed in study.seeds for variant in study.variants
    }


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C, which a terminal sends to all; the one that started them ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Stopped(Exception):
    """The study was interrupted; the run resumes from its checkpoint another time."""


@dataclass
class _Worker:
    """What a training process shares with the one that started it."""

    events: "Queue[tuple[RunId, Epoch]]"
    stop: Event


_worker: _Worker


def _start_worker(events: "Queue[tuple[RunId, Epoch]]", stop: Event) -> None:
    global _worker  # a process pool has no other way to hand its processes what cannot be pickled
    _worker = _Worker(events, stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet()


def _end_with_parent() -> None:
    """End this process at once when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(run_id: RunId, config: RunConfig, folder: Path) -> RunResult:
    def on_epoch(epoch: Epoch) -> None:
        _worker.events.put((run_id, epoch))
        if _worker.stop.is_set():
            raise _Stopped

    return run(config, folder, on_epoch=on_epoch)
