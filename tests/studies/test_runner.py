"""Runs of a study in real processes: results, failures, killed workers, signals, runs that start from others."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_runs import RECIPE

from localvit.studies.config import StudyRun
from localvit.studies.record import ERROR, Outcome
from localvit.studies.running.local import LocalBackend
from localvit.studies.running.runner import parse_shard, shard, train_runs
from localvit.system.errors import Interrupted
from localvit.system.machine import cores
from localvit.training import read_result, run
from localvit.training.overrides import run_config, with_overrides

CONFIG = run_config(RECIPE)


def a_run(folder: Path, seed: int = 0, after: StudyRun | None = None, **overrides: Any) -> StudyRun:
    """A run below ``folder``; fields are given as ``training__epochs=5``."""
    values = {name.replace("__", "."): value for name, value in overrides.items()} | {"seed": seed}
    return StudyRun.of("DeiT", with_overrides(run_config(RECIPE), values), folder, after)


def long_runs(folder: Path, workers: int = 0) -> list[StudyRun]:
    """Two runs that take long enough to be disturbed; the first has ``workers`` processes that read images."""
    return [a_run(folder, seed, training__epochs=16, hardware__workers=workers * (1 - seed)) for seed in range(2)]


class Log:
    """An observer that keeps what it is told, and does something at a moment."""

    def __init__(self, at_epoch: Callable[[StudyRun], None] | None = None) -> None:
        self.at_epoch = at_epoch
        self.events: list[tuple[str, str]] = []
        self.counts: dict[str, list[int]] = {}
        self.outcomes: dict[str, Outcome] = {}

    def started(self, run: StudyRun) -> None:
        self.events.append(("started", run.folder.name))

    def epochs(self, run: StudyRun, count: int, last: Mapping[str, float]) -> None:
        assert last["epoch"] == count
        if count >= run.config.training.evaluate_every:
            assert 0 <= last["val_top1"] <= 100
        else:
            assert "val_top1" not in last
        self.counts.setdefault(run.folder.name, []).append(count)
        if self.at_epoch is not None and count < run.config.training.total_epochs:
            at_epoch, self.at_epoch = self.at_epoch, None
            at_epoch(run)

    def ended(self, run: StudyRun, outcome: Outcome) -> None:
        self.events.append(("ended", run.folder.name))
        self.outcomes[run.folder.name] = outcome

    def statuses(self, runs: Sequence[StudyRun]) -> list[str]:
        return [self.outcomes[run.folder.name].status for run in runs]


def starts_of(run: StudyRun) -> list[dict[str, Any]]:
    """When and on what a run was started."""
    starts: list[dict[str, Any]] = json.loads((run.folder / "record.json").read_text())["starts"]
    return starts


def assert_equal(runs: Sequence[StudyRun], others: Sequence[StudyRun]) -> None:
    """Runs ended with the same numbers and the same weights, to the bit."""
    for one, other in zip(runs, others, strict=True):
        assert (result := read_result(one.folder)) is not None
        assert result == read_result(other.folder)
        weights, others_weights = (load_file(run.folder / "last.safetensors") for run in (one, other))
        assert weights.keys() == others_weights.keys()
        assert all(torch.equal(weights[name], others_weights[name]) for name in weights)


@pytest.fixture(scope="module")
def backend() -> Iterator[LocalBackend]:
    """Two processes that train one run after another, for all tests that leave them alone."""
    with LocalBackend(2) as backend:
        yield backend


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[StudyRun]:
    """The long runs, trained here without any of what is tested."""
    runs = long_runs(tmp_path_factory.mktemp("undisturbed"))
    for each in runs:
        run(each.config, each.folder)
    return runs


def test_epochs_without_an_evaluation_are_counted_too(backend: LocalBackend, tmp_path: Path) -> None:
    runs = [a_run(tmp_path, training__epochs=8, training__evaluate_every=4)]
    log = Log()
    train_runs(runs, backend, log)
    assert log.statuses(runs) == ["finished"]
    assert log.counts[runs[0].folder.name][-1] == 8


def test_all_runs_are_trained_and_never_again(backend: LocalBackend, tmp_path: Path) -> None:
    runs = [a_run(tmp_path, seed) for seed in range(3)]
    log = Log()
    train_runs([*runs, runs[0]], backend, log)
    assert log.statuses(runs) == ["finished"] * 3
    assert len(log.events) == 6
    assert [log.counts[run.folder.name][-1] for run in runs] == [3, 3, 3]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = Log()
    train_runs(runs, backend, again)
    assert again.events == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_idle_process_ends_by_itself(tmp_path: Path) -> None:
    before = multiprocessing.active_children()
    with LocalBackend(1) as backend:
        train_runs([a_run(tmp_path)], backend, Log())
        (process,) = {*multiprocessing.active_children()} - {*before}
    assert process.exitcode == 0  # one that is killed leaves semaphores behind, and Python warns of them


def test_failed_runs_keep_their_errors_stop_no_other_and_are_tried_again(backend: LocalBackend, tmp_path: Path) -> None:
    runs = [
        a_run(tmp_path, model__name="deit_tinny"),
        a_run(tmp_path, training__optimizer_arguments__momentums=4),
        a_run(tmp_path, training__learning_rate=1e30),
        a_run(tmp_path),
    ]
    log = Log()
    train_runs(runs, backend, log)
    assert log.statuses(runs) == ["failed", "failed", "failed", "finished"]
    unknown, argument, not_finite, _ = (log.outcomes[run.folder.name].error or "" for run in runs)
    assert unknown.startswith("there is no model deit_tinny")
    assert "Traceback" not in unknown
    assert argument.startswith("TypeError: ")
    assert "Traceback" in argument
    assert not_finite.startswith("the loss is not finite in epoch")
    assert (runs[0].folder / ERROR).read_text().strip() == unknown

    (runs[0].folder / ERROR).write_text("an error from before")
    again = Log()
    train_runs(runs, backend, again)
    assert sorted(again.outcomes) == sorted(run.folder.name for run in runs[:3])
    assert again.outcomes[runs[0].folder.name].error == unknown
    mended = [StudyRun("mended", 0, runs[3].config, runs[0].folder)]
    train_runs(mended, backend, Log())
    assert read_result(runs[0].folder) == read_result(runs[3].folder)
    assert not (runs[0].folder / ERROR).exists()


def _process_of(run: StudyRun, backend: LocalBackend) -> BaseProcess:
    """The process that trains a run. After its first epoch, the run has noted that it was started."""
    (process,) = (slot.process for slot in backend._slots if slot.run == run)
    assert process is not None
    return process


def test_a_killed_process_fails_its_own_run_which_goes_on_the_next_time(
    undisturbed: list[StudyRun], tmp_path: Path
) -> None:
    runs, others = long_runs(tmp_path), set(multiprocessing.active_children())
    with LocalBackend(2) as backend:
        log = Log(lambda run: _process_of(run, backend).kill())
        train_runs(runs, backend, log)
        assert sorted(log.statuses(runs)) == ["failed", "finished"]
        failed = runs[log.statuses(runs).index("failed")]
        error = log.outcomes[failed.folder.name].error
        assert error == "the process was killed, probably out of memory; try fewer --jobs"
        again = Log()
        train_runs(runs, backend, again)
        assert again.statuses([failed]) == ["finished"]
        assert len(starts_of(failed)) == 2
    assert set(multiprocessing.active_children()) == others
    assert_equal(runs, undisturbed)


def test_runs_wait_for_the_run_that_they_start_from(backend: LocalBackend, tmp_path: Path) -> None:
    start = a_run(tmp_path)
    dependents = [a_run(tmp_path, after=start, model__layers=layers, model__locality={}) for layers in ("all", [0])]
    log = Log()
    train_runs([dependents[0], start, dependents[1]], backend, log)
    assert log.events[:2] == [("started", start.folder.name), ("ended", start.folder.name)]
    assert log.statuses([start, *dependents]) == ["finished"] * 3

    failing = a_run(tmp_path, model__name="deit_tinny")
    dependent = a_run(tmp_path, after=failing)
    log = Log()
    train_runs([dependent], backend, log)
    assert ("started", dependent.folder.name) not in log.events
    assert (log.outcomes[dependent.folder.name].error or "").startswith(
        "the run it starts from failed: there is no model deit_tinny"
    )


PROGRAM = """
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from test_runner import Log, LocalBackend, long_runs, train_runs
    with LocalBackend(2) as backend:
        train_runs(long_runs(Path(sys.argv[2]), int(sys.argv[3])), backend, Log())
"""


def a_study(folder: Path, workers: int = 0) -> "subprocess.Popen[str]":
    """The long runs trained by another process, which leads a group of its own."""
    program = folder / "study.py"
    program.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, program, str(Path(__file__).parent), folder, str(workers)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has them ignore Ctrl-C, and a process inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("number", "to_all", "workers"),
    [
        *(
            pytest.param(number, to_all, workers, marks=pytest.mark.slow)
            for number, to_all, workers in (
                (signal.SIGKILL, False, 1),
                (signal.SIGINT, True, 0),
                (signal.SIGTERM, False, 1),
                (signal.SIGTERM, True, 0),
            )
        ),
    ],
)
def test_a_stopped_study_leaves_no_processes_and_goes_on_to_the_same_results(
    number: signal.Signals,
    to_all: bool,
    workers: int,
    backend: LocalBackend,
    undisturbed: list[StudyRun],
    tmp_path: Path,
) -> None:
    """A terminal sends Ctrl-C to all processes; a cluster may send SIGTERM to one or all."""
    process = a_study(tmp_path, workers)
    runs = long_runs(tmp_path, workers)
    _wait_until(lambda: (runs[0].folder / "metrics.csv").exists())
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=300)
    if number != signal.SIGKILL:
        raised = {
            signal.SIGINT: "KeyboardInterrupt",
            signal.SIGTERM: "localvit.system.errors.Interrupted: Stopped by SIGTERM",
        }
        assert errors.splitlines()[-1] == raised[number]
        assert errors.count("Traceback") == 1, errors  # the study's own, and no process's
    _wait_until(lambda: not _alive(process.pid))
    assert read_result(runs[0].folder) is None
    assert not any((run.folder / ERROR).exists() for run in runs)

    log = Log()
    train_runs(runs, backend, log)
    assert log.counts[runs[0].folder.name][0] >= 1
    assert_equal(runs, undisturbed)


def test_interrupted_runs_save_their_state_and_the_back_end_can_go_on(tmp_path: Path) -> None:
    """A checkpoint comes from the interruption alone: the next by the clock is far off."""
    runs = [a_run(tmp_path, training__epochs=5, training__batch_size=2, training__checkpoint_minutes=100)]
    before = signal.getsignal(signal.SIGTERM)
    with LocalBackend(1) as backend:
        with pytest.raises(Interrupted, match="SIGTERM"):
            train_runs(runs, backend, Log(lambda _: signal.raise_signal(signal.SIGTERM)))
        assert signal.getsignal(signal.SIGTERM) == before
        assert (runs[0].folder / "last.ckpt").exists()
        train_runs(runs, backend, log := Log())
    assert log.statuses(runs) == ["finished"]
    assert len(starts_of(runs[0])) == 2


@pytest.mark.slow
def test_two_studies_train_a_run_that_they_share_once(
    backend: LocalBackend, undisturbed: list[StudyRun], tmp_path: Path
) -> None:
    runs = long_runs(tmp_path)
    process = a_study(tmp_path)
    _wait_until(lambda: (runs[0].folder / "config.yaml").exists())
    log = Log()
    train_runs(runs, backend, log)
    assert log.statuses(runs) == ["finished"] * 2
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert [len(starts_of(run)) for run in runs] == [1, 1]
    assert_equal(runs, undisturbed)


def test_processes_share_the_cores_and_a_run_may_say_how_many_threads_it_wants(
    backend: LocalBackend, tmp_path: Path
) -> None:
    shared = [a_run(tmp_path, seed, hardware__threads=None) for seed in range(2)]
    train_runs(shared, backend, Log())
    assert [starts_of(run)[-1]["machine"]["threads"] for run in shared] == [max(1, cores() // 2)] * 2
    one_after_another = [a_run(tmp_path, 2, hardware__threads=threads) for threads in (None, 1, None)]
    one_after_another[2] = a_run(tmp_path, 3, hardware__threads=None)
    with LocalBackend(1, threads=3) as single:
        train_runs(one_after_another, single, Log())
    assert [starts_of(run)[-1]["machine"]["threads"] for run in one_after_another] == [3, 1, 3]


def test_a_process_of_a_job_of_slurm_trains_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROCID": "3", "NTASKS": "4", "NNODES": "4", "LOCALID": "0", "NODEID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_NAME", "study")
    runs = [a_run(tmp_path)]
    with LocalBackend(1) as backend:
        train_runs(runs, backend, log := Log())
    assert log.statuses(runs) == ["finished"]
    assert os.environ["SLURM_PROCID"] == "3"


@st.composite
def studies(draw: st.DrawFn) -> list[StudyRun]:
    """Runs in some order, some twice; each starts from none or from one before it."""
    runs: list[StudyRun] = []
    for number in range(draw(st.integers(0, 12))):
        after = draw(st.none() | st.sampled_from(runs)) if runs else None
        runs.append(StudyRun("DeiT", number, CONFIG, Path(str(number)), after))
    return draw(st.permutations(runs)) + (draw(st.lists(st.sampled_from(runs))) if runs else [])


@given(studies(), st.integers(1, 5))
def test_shards_hold_every_run_once_and_never_part_a_run_from_its_start(runs: list[StudyRun], count: int) -> None:
    shards = [[run.folder for run in shard(runs, index, count)] for index in range(1, count + 1)]
    assert sorted(folder for part in shards for folder in part) == sorted({run.folder for run in runs})
    for part in shards:
        for each in runs:
            assert each.after is None or (each.folder in part) == (each.after.folder in part)
    if all(run.after is None for run in runs):
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_shards_are_every_nth_run() -> None:
    runs = [StudyRun("DeiT", seed, run_config(RECIPE), Path(str(seed))) for seed in range(7)]
    assert [run.seed for run in shard(runs, 2, 3)] == [1, 4]


def test_shards_are_parsed() -> None:
    assert parse_shard("2/8") == (2, 8)
    assert parse_shard("1/1") == (1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2", "shard is '2'; it must be two numbers such as 2/8"),
        ("a/3", "shard is 'a/3'; it must be two numbers"),
        ("-1/3", "shard is '-1/3'; it must be two numbers"),
        ("0/3", "shard is '0/3'; the first number must be 1 to 3"),
        ("4/3", "shard is '4/3'; the first number must be 1 to 3"),
        ("1/0", "shard is '1/0'; the first number must be 1 to 0"),
    ],
)
def test_a_shard_that_there_is_not_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_shard(text)
