"""Runs of a study on a Ray cluster of two nodes, one of which dies."""

import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from safetensors.torch import load_file

from localvit.studies.config import Resources, StudyRun
from localvit.studies.record import Outcome
from localvit.studies.running.ray_cluster import RayBackend
from localvit.studies.running.runner import train_runs
from localvit.system.errors import Interrupted, LocalViTError
from localvit.training import read_result, run
from localvit.training.overrides import run_config

# Collecting the tests must not import Ray, which takes seconds.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra: pip install localvit[ray]")

RECIPE: dict[str, Any] = small_runs.RECIPE | {
    "training": small_runs.RECIPE["training"] | {"epochs": 16},
    "hardware": {"accelerator": "cpu", "workers": 0},  # threads are Ray's to give
}
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def a_run(folder: Path, seed: int, **groups: Mapping[str, Any]) -> StudyRun:
    """A run below ``folder``, with other values in some groups of fields."""
    values = {name: RECIPE[name] | dict(fields) for name, fields in groups.items()}
    return StudyRun.of("DeiT", run_config(RECIPE | values | {"seed": seed}), folder)


class Log:
    """An observer that keeps what became of runs, and does something when all of some have done an epoch."""

    def __init__(self, when_running: Callable[[], None] | None = None, runs: int = 2) -> None:
        self.when_running, self.runs = when_running, runs
        self.running: set[int] = set()
        self.outcomes: dict[int, Outcome] = {}

    def started(self, run: StudyRun) -> None: ...

    def epochs(self, run: StudyRun, count: int, last: Mapping[str, float]) -> None:
        self.running.add(run.seed)
        if self.when_running is not None and len(self.running) == self.runs:
            when_running, self.when_running = self.when_running, None
            when_running()

    def ended(self, run: StudyRun, outcome: Outcome) -> None:
        assert self.when_running is None, "a run ended before all were running"
        self.outcomes[run.seed] = outcome


def starts_of(run: StudyRun) -> list[dict[str, Any]]:
    """When and on what a run was started."""
    starts: list[dict[str, Any]] = json.loads((run.folder / "record.json").read_text())["starts"]
    return starts


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster with a head of one core."""
    cluster_utils: Any = importlib.import_module("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=NODE)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[StudyRun]:
    """Two runs, trained here with as many threads as a task has cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runs = [a_run(tmp_path_factory.mktemp("undisturbed"), seed) for seed in range(2)]
    for each in runs:
        run(each.config, each.folder)
    torch.set_num_threads(threads)
    return runs


@pytest.mark.slow
def test_runs_of_a_node_that_dies_go_on_elsewhere_to_the_same_results(
    cluster: Any, undisturbed: list[StudyRun], tmp_path: Path
) -> None:
    """Each node has a core, so each of two runs has a node, until one has none."""
    node = cluster.add_node(**NODE)
    runs = [a_run(tmp_path, seed) for seed in range(2)]
    log = Log(lambda: cluster.remove_node(node, allow_graceful=False))
    with RayBackend(cluster.address, Resources()) as backend:
        train_runs(runs, backend, log)
    assert [log.outcomes[seed].error for seed in range(2)] == [None, None]
    assert sorted(len(starts_of(run)) for run in runs) == [1, 2]
    for one, other in zip(runs, undisturbed, strict=True):
        assert (result := read_result(one.folder)) is not None
        assert result == read_result(other.folder)
        weights, others_weights = (load_file(run.folder / "last.safetensors") for run in (one, other))
        assert weights.keys() == others_weights.keys()
        assert all(torch.equal(weights[name], others_weights[name]) for name in weights)


@pytest.mark.slow
def test_what_is_wrong_with_a_run_comes_back_and_paths_may_be_relative(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = a_run(Path("runs"), 0, training={"epochs": 2})
    dependent = StudyRun.of("DeiT", a_run(Path("runs"), 1, training={"epochs": 2}).config, Path("runs"), after=start)
    runs = [a_run(Path("runs"), 2, model={"name": "deit_tinny"}), dependent]
    log = Log()
    with RayBackend(cluster.address, Resources()) as backend:
        train_runs(runs, backend, log)
    assert (log.outcomes[2].error or "").startswith("there is no model deit_tinny")
    assert [log.outcomes[seed].error for seed in (0, 1)] == [None, None]


@pytest.mark.slow
def test_interrupted_runs_save_their_state(cluster: Any, tmp_path: Path) -> None:
    """A checkpoint comes from the interruption alone: the next by the clock, and the end, are far off."""
    training = {"epochs": 1000, "batch_size": 2, "checkpoint_minutes": 100}
    runs = [a_run(tmp_path, 0, training=training)]
    interrupted = 0.0

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = time.monotonic()
        raise Interrupted(15)

    with RayBackend(cluster.address, Resources()) as backend, pytest.raises(Interrupted):
        train_runs(runs, backend, Log(interrupt, runs=1))
    assert time.monotonic() - interrupted < 30
    assert (runs[0].folder / "last.ckpt").exists()
    assert len(starts_of(runs[0])) == 1


@pytest.mark.slow
def test_resources_that_no_machine_has_are_said(cluster: Any) -> None:
    with (
        pytest.warns(UserWarning, match="no machine of the Ray cluster has 64 cores, 0 GPUs and 0 GiB for a run"),
        RayBackend(cluster.address, Resources(cpus=64)),
    ):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_where_no_cluster_is_it_is_said_what_to_do(address: str) -> None:
    with (
        pytest.raises(LocalViTError, match=rf"no Ray cluster answers at {address}.*ray start --head"),
        RayBackend(address, Resources()),
    ):
        pass
