"""Items of ``benchmarks/gpu.py`` in processes side by side, and what they leave to the steps that follow."""

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gpu_steps import ahead, clock, correctness, report
from gpu_steps.children import Children, _Child
from gpu_steps.hard_activations import exact, float64_of_pytorch
from gpu_steps.models import Place, create
from gpu_steps.running import (
    CUT,
    DONE,
    ERROR,
    NOT_RUN,
    SKIPPED,
    Item,
    Outcome,
    Row,
    Skipped,
    Step,
    became,
    done_before,
    run_step,
)

LONG = 300.0
ON_GPU, HERE = Place("cuda", quick=False), Place("cpu", quick=True)


def returns(value: float) -> list[Row]:
    return [{"a": value, "process": os.getpid()}]


def raises(error: Exception) -> list[Row]:
    raise error


def dies() -> list[Row]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def hangs(note: Path) -> list[Row]:
    """As code does that no exception reaches, in a process and in one that it started."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    note.write_text(str(sleeper.pid))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM, signal.SIGINT})
    time.sleep(LONG)
    return []


def step(items: Sequence[Item], outcomes: Any) -> Step:
    return Step("made up", "Made up", "Nothing.", ("a",), 1.0, tuple(items), outcomes)


def empty() -> dict[str, Any]:
    return {"steps": {}, "quick": True, "device": "cpu"}


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends soon, or only waits for its parent to notice that it has."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_what_goes_wrong_in_a_process_is_recorded_and_the_others_go_on() -> None:
    items = [
        Item("right", partial(returns, 1.0)),
        Item("raises", partial(raises, ValueError("two\nlines"))),
        Item("dies", dies),
        Item("missing", partial(raises, Skipped("no data"))),
        Item("cannot be sent", lambda: []),
        Item("last", partial(returns, 2.0)),
    ]
    results = empty()
    children = Children(1)
    run_step(step(items, children.outcomes), results, time.monotonic() + LONG, resume=False, write=lambda: None)
    found = results["steps"]["made up"]["items"]
    assert list(found) == [item.name for item in items]
    assert [one["status"] for one in found.values()] == [DONE, ERROR, ERROR, SKIPPED, ERROR, DONE]
    assert found["raises"]["said"] == "ValueError: two lines"
    assert "status -9" in found["dies"]["said"]
    first, last = (found[name]["rows"][0] for name in ("right", "last"))
    assert (first["a"], last["a"]) == (1.0, 2.0)
    assert first["process"] != last["process"] != os.getpid()
    assert gone(first["process"])
    assert gone(last["process"])


def test_what_hangs_at_the_deadline_is_cut_short_and_its_processes_are_dead(tmp_path: Path) -> None:
    children, child = Children(1), _Child(1, time.monotonic() + LONG)
    assert child.carry_out(Item("imports what is needed", partial(returns, 1.0)), time.monotonic() + LONG)
    children._idle.put(child)
    note = tmp_path / "sleeper"
    start = time.monotonic()
    found = {
        item.name: one["status"]
        for item, one in children.outcomes(
            [Item("hangs", partial(hangs, note)), Item("later", partial(returns, 1.0))], start + 4.0
        )
    }
    assert found == {"hangs": CUT, "later": NOT_RUN}
    assert 4.0 <= time.monotonic() - start < 20.0
    assert not child.process.is_alive()
    assert gone(int(note.read_text()))


def test_work_in_the_background_ends_when_it_is_closed(tmp_path: Path) -> None:
    with Children(1) as children:
        children.begin(
            [Item("hangs", partial(hangs, tmp_path / "sleeper")), Item("later", partial(returns, 1.0))], LONG * 1e6
        )
        while not children._children:
            time.sleep(0.01)
    assert not any(child.process.is_alive() for child in children._children)
    assert not any(process.is_alive() for process in multiprocessing.active_children())


def test_items_are_in_the_order_of_the_list_whichever_ends_first_and_done_ones_are_kept() -> None:
    asked: list[list[str]] = []

    def backwards(items: Sequence[Item], deadline: float) -> Iterator[tuple[Item, Outcome]]:
        asked.append([item.name for item in items])
        for item in reversed(items):
            yield item, became(ERROR if len(asked) == 1 and item.name == "b" else DONE, "", 1.0, [{"a": len(asked)}])

    items = [Item(name, partial(returns, 1.0)) for name in "abc"]
    results, written = empty(), []

    def write() -> None:
        written.append(list(results["steps"]["made up"]["items"]))

    for _ in range(2):
        run_step(step(items, backwards), results, time.monotonic() + LONG, resume=True, write=write)
    assert asked == [["a", "b", "c"], ["b"]]
    assert written[:3] == [["c"], ["b", "c"], ["a", "b", "c"]]
    found = results["steps"]["made up"]["items"]
    assert [(name, one["rows"][0]["a"]) for name, one in found.items()] == [("a", 1), ("b", 2), ("c", 1)]
    assert list(done_before("made up", results)) == ["a", "b", "c"]
    results["steps"]["made up"]["record"]["machine"] = "another"
    assert not done_before("made up", results)


def test_all_that_runs_side_by_side_can_be_sent_to_a_process() -> None:
    for place in (ON_GPU, HERE):
        building = ahead.step(clock.comparisons(place), place, Children(1))
        for item in (*correctness.step(place).items, *building.items):
            assert pickle.loads(pickle.dumps(item)).name == item.name  # noqa: S301  # this test wrote it


def test_every_contestant_of_the_clock_is_built_ahead_those_that_are_compiled_first() -> None:
    comparisons = clock.comparisons(ON_GPU)
    names = [item.name for item in ahead.step(comparisons, ON_GPU, Children(1)).items]
    assert len(set(names)) == len(names) == 2 * len(comparisons)
    assert names[:2] == [
        "deit_tiny_patch16_224, compiled, training", "localvit_tiny_patch16_224, compiled, training"
    ]  # fmt: skip
    assert ["compiled" in name for name in names] == [True] * 20 + [False] * 20


def test_the_clock_takes_memory_from_what_was_built_and_a_failure_there_is_none_of_the_run() -> None:
    one = clock.comparisons(ON_GPU)[0]
    baseline, twin = one.contestants()
    names = [item.name for item in ahead.step([one], ON_GPU, Children(1)).items]
    results = empty()
    assert ahead.memory_found(results, baseline, one.setting) is None
    built = {names[0]: became(DONE, "", 1.0, [{"peak MiB": 5.0}]), names[1]: became(ERROR, "out of memory", 1.0)}
    results["steps"] = {"ahead": {"items": built}, "clock": {"items": {}}}
    assert ahead.memory_found(results, baseline, one.setting) == 5.0
    assert ahead.memory_found(results, twin, one.setting) is None
    assert not report.failures(results, ["clock"])


def test_what_is_kept_of_the_clock_is_not_built_again() -> None:
    results = empty()
    comparisons = clock.comparisons(ON_GPU)
    items = [Item(clock.name(one), partial(returns, 1.0)) for one in comparisons[:3]]
    run_step(step(items, _all_done), results, time.monotonic() + LONG, resume=False, write=lambda: None)
    results["steps"]["clock"] = results["steps"].pop("made up")
    assert clock.left(ON_GPU, results, resume=True) == comparisons[3:]
    assert clock.left(ON_GPU, results, resume=False) == comparisons


def _all_done(items: Sequence[Item], deadline: float) -> Iterator[tuple[Item, Outcome]]:
    return ((item, became(DONE, "", 1.0)) for item in items)


@pytest.mark.parametrize(
    ("name", "on_gpu"),
    [
        ("localvit_tiny_patch16_224", 1e-6),  # hard-swish, and a hard sigmoid in squeeze-and-excitation
        ("localvit_tiny_relu6_mlp6_patch16_224", 1e-9),
        ("deit_tiny_patch16_224", 1e-9),
    ],
)
def test_float64_on_a_gpu_is_exact_where_pytorch_is(name: str, on_gpu: float) -> None:
    model = create(name, "tiny")
    assert exact(model, ON_GPU) == on_gpu
    assert exact(copy.deepcopy(model).double(), HERE) == 1e-9


def test_hard_activations_of_pytorch_are_their_formulas_but_for_one_derivative_here() -> None:
    swish, sigmoid = float64_of_pytorch(HERE)
    assert (swish["model"], sigmoid["model"]) == ("PyTorch's hardswish", "PyTorch's hardsigmoid")
    assert max(swish["outputs"], swish["gradients"], sigmoid["outputs"]) < 1e-15
    assert sigmoid["gradients"] < 1e-7  # a sixth of single precision
    for row in (swish, sigmoid):
        assert row["outputs at most"] == row["gradients at most"] == 1e-6
        assert not row["fault"]
