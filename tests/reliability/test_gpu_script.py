"""``benchmarks/gpu.py`` as a user without a GPU dry-runs it, and what carries its steps out."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gpu_steps import clock, correctness, needs, report, running
from gpu_steps.arithmetic import compared
from gpu_steps.hard_activations import exact, float64_of_pytorch
from gpu_steps.models import OTHERS, PAIRS, Place, create
from gpu_steps.running import (
    CUT,
    DONE,
    ERROR,
    FAILED,
    NOT_RUN,
    SKIPPED,
    Item,
    OutOfTime,
    Row,
    Skipped,
    Step,
    run_step,
    within,
)
from twins import row_a, verdict

import localvit
from localvit import LocalityFeedForward
from localvit.benchmark import Measurement, SettingResult
from localvit.locality.kernels.forms import set_form
from localvit.models.catalog import PUBLISHED

ROOT = Path(__file__).parents[2]
BENCHMARKS = str(ROOT / "benchmarks")
SCRIPT = str(ROOT / "benchmarks" / "gpu.py")
CLOCK_PAGE: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "clock.py"))
ON_GPU, HERE = Place("cuda", quick=False), Place("cpu", quick=True)
# The project's packages that the script says it does not need are missing in its process.
WITHOUT_UNUSED = (
    f"import runpy, sys; sys.modules.update(dict.fromkeys({needs.UNUSED})); "
    f"sys.path.insert(0, {BENCHMARKS!r}); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def script(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", WITHOUT_UNUSED, SCRIPT, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def step(**work: Any) -> Step:
    return Step("made up", "Made up", "Nothing.", ("a",), 1.0, tuple(Item(name, run) for name, run in work.items()))


def carried_out(step: Step, seconds: float = 60.0, results: dict[str, Any] | None = None) -> dict[str, Any]:
    results = results or {"steps": {}, "quick": True, "device": "cpu"}
    run_step(step, results, time.monotonic() + seconds, resume=True, write=lambda: None)
    return results


def statuses(results: dict[str, Any]) -> dict[str, str]:
    return {name: item["status"] for name, item in results["steps"]["made up"]["items"].items()}


def raises(error: BaseException) -> Any:
    def run() -> list[Row]:
        raise error

    return run


def sleeps() -> list[Row]:
    try:
        time.sleep(30)
    except Exception:  # as whoever measures contestants catches their errors
        return []
    raise AssertionError


@pytest.mark.slow
def test_a_dry_run_carries_out_every_step(tmp_path: Path) -> None:
    ended = script("--device", "cpu", "--quick", "--minutes", "30", "--output", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert list(results["steps"]) == ["correctness", "clock", "recipe", "precision"]
    items = {name: one["status"] for found in results["steps"].values() for name, one in found["items"].items()}
    assert items.pop("CIFAR-10") == SKIPPED
    assert set(items.values()) == {DONE}
    forms = [
        row["form"] for row in results["steps"]["correctness"]["items"]["localvit_tiny_patch16_224: forms"]["rows"]
    ]
    assert {"in order", "few passes", "fused", "Triton"} == set(forms)


def test_a_step_of_a_dry_run_in_an_environment_with_only_what_it_needs(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--quick", "--minutes", "30", "--steps", "recipe", "--output", str(tmp_path)]
    ended = script(*arguments)
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["steps"]["recipe"]["items"]["CIFAR-10"]["status"] == SKIPPED
    (row,) = results["steps"]["recipe"]["items"]["synthetic images"]["rows"]
    assert row["images/s"] > 0
    assert row["top-1, %"] is None  # noise has no accuracy
    page = (tmp_path / "gpu.md").read_text()
    assert "only a trial" in page
    assert "--data.root" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_before_it_starts(tmp_path: Path) -> None:
    ended = script("--output", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.strip() == "PyTorch finds no GPU here. --device cpu --quick is a dry run without one"
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_with_the_command_that_installs_them() -> None:
    needed = needs.requirements(data=False)
    assert "jsonargparse" in needed
    assert not needed.keys() & set(needs.UNUSED)
    assert needs.requirements(data=True).keys() - needed.keys() == {
        "datasets",
        "dill",
        "multiprocess",
        "xxhash",
    }
    assert needs.missing({"torch": "torch>=2.6"}) == []
    lacking = needs.missing({"torch": "torch>=2.6", "not-there": "not-there[all]>=4.5"})
    assert lacking == ["not-there[all]>=4.5"]
    assert "\n  pip install 'not-there[all]>=4.5'\n" in needs.in_words(lacking)


def test_each_item_is_recorded_and_none_stops_the_others() -> None:
    work = {
        "right": lambda: [{"a": 1, "fault": ""}],
        "wrong": lambda: [{"a": 1, "fault": "a is off"}],
        "raises": raises(ValueError("two\nlines")),
        "missing": raises(Skipped("no data")),
        "last": lambda: [{"a": 2}],
    }
    results = carried_out(step(**work))
    assert statuses(results) == {"right": DONE, "wrong": FAILED, "raises": ERROR, "missing": SKIPPED, "last": DONE}
    assert report.failures(results, ["made up"]) == [
        "made up: wrong: a is off", "made up: raises: ValueError: two lines"
    ]  # fmt: skip
    page = report.page(results)
    assert "- raises: error: ValueError: two lines" in page
    assert "- missing: skipped: no data" in page
    assert "| 2 |" in page


def test_what_takes_longer_than_the_time_is_cut_short_and_what_follows_does_not_start() -> None:
    start = time.monotonic()
    results = carried_out(step(first=lambda: [{"a": 1}], slow=sleeps, last=lambda: [{"a": 2}]), seconds=3.0)
    assert time.monotonic() - start < 10
    assert statuses(results) == {"first": DONE, "slow": CUT, "last": NOT_RUN}
    assert not report.failures(results, ["made up"])
    assert not isinstance(OutOfTime(), Exception)


def test_an_alarm_at_any_moment_leaves_no_timer_and_no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_SECONDS_BETWEEN_ALARMS", 0.0001)
    before, cut = signal.getsignal(signal.SIGALRM), 0

    def passes_time() -> None:
        end = time.monotonic() + 0.0015
        while time.monotonic() < end:
            pass

    for number in range(500):
        try:
            within(0.001 + number * 2e-6, passes_time)
        except OutOfTime:
            cut += 1
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) == before
    assert 100 < cut <= 500


def test_resuming_does_what_was_not_done() -> None:
    results = carried_out(step(one=lambda: [{"a": 1}], two=raises(ValueError("no"))))
    again = carried_out(step(one=raises(AssertionError("again")), two=lambda: [{"a": 2}]), results=results)
    assert statuses(again) == {"one": DONE, "two": DONE}
    again["steps"]["made up"]["record"]["machine"] = "another"
    assert statuses(carried_out(step(one=raises(ValueError("anew"))), results=again)) == {"one": ERROR}


def test_every_model_of_the_paper_is_checked_on_a_gpu() -> None:
    items = [item.name for item in correctness.step(ON_GPU).items]
    for model in PUBLISHED:
        assert f"{model.name}: forms" in items
        assert f"{model.name}: compiled training" in items
    assert {*PAIRS, *OTHERS} == {model.name for model in PUBLISHED if model.baseline}
    first = items.index("localvit_swin_tiny_patch4_window7_224: forms")
    assert first < items.index("localvit_tiny_patch16_224: compiled training")


def test_the_forms_of_a_model_agree_and_a_kernel_that_does_not_run_is_a_fault() -> None:
    rows = correctness.forms("localvit_tiny_patch16_224", "tiny", HERE)
    by_form = {(row["form"], row["precision"]): row for row in rows}
    assert not any(row["fault"] for form, row in by_form.items() if form[0] != "Triton")
    assert by_form["few passes", "float64"]["gradients"] < 1e-12
    # Outside the interpreter the kernel cannot run on a CPU, and the plain operations take its place.
    assert "the kernel ran 0 of 2 times" in by_form["Triton", "float32"]["fault"]


def test_a_form_that_computes_something_else_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: LocalityFeedForward, image_BDHW: Tensor) -> Tensor:
        return 1.001 * network.in_order(image_BDHW)

    monkeypatch.setattr(localvit, "save_memory", lambda model: set_form(model, wrong))
    rows = correctness.forms("localvit_tiny_patch16_224", "tiny", HERE)
    (row,) = [row for row in rows if (row["form"], row["precision"]) == ("few passes", "float64")]
    assert "few passes, float64: gradients are off by" in row["fault"]
    assert row["outputs"] > row["outputs at most"]


@pytest.mark.parametrize("off", [2e-9, float("nan"), float("inf")])
def test_a_distance_that_is_too_large_or_no_number_is_a_fault(off: float) -> None:
    row = compared("model", "form", "float64", (off, 1e-9), (None, None))
    assert "model, form, float64: outputs are off by" in row["fault"]
    assert not compared("model", "form", "float64", (1e-10, 1e-9), (off, None))["fault"]


def test_row_a_has_five_pairs_in_both_modes_eager_and_compiled_with_localvit_t_first() -> None:
    found = clock.comparisons(ON_GPU)
    kinds = [(one.twin, one.setting.mode, one.compiles) for one in found]
    assert len(set(kinds)) == len(kinds) == len(PAIRS) * 2 * 2
    assert {one.twin for one in found[:4]} == {"localvit_tiny_patch16_224"}
    assert {(one.setting.batch_size, one.setting.image_size) for one in found} == {(256, (224, 224))}
    assert all(one.goal["bound"] == 0.85 for one in found)


def results_of_a_gpu(*ratios: float) -> dict[str, Any]:
    """Results as the script writes them, with so much of row A."""
    items = {}
    for one, ratio in zip(clock.comparisons(ON_GPU), ratios, strict=False):
        measured = [
            Measurement(contestant.name, one.setting, rates=(100.0 * factor,))
            for contestant, factor in zip(one.contestants(), (1.0, ratio), strict=True)
        ]
        judged = verdict(one, SettingResult(one.setting, tuple(measured)))
        items[clock._name(one)] = {"rows": [{"judged": judged}], "status": DONE}
    record = {"time": "2026-11-26T00:00:00+00:00", "machine": "a GPU", "threads": 16}
    return {"device": "cuda", "quick": False, "steps": {"clock": {"items": items, "record": record}}}


def test_the_page_of_the_clock_takes_row_a_from_the_numbers() -> None:
    line, page = CLOCK_PAGE["line"], CLOCK_PAGE["page"]
    assert line(None) == "| A, GPU | 0.85 | | not measured: no GPU |"
    shown = line(results_of_a_gpu(0.9, 1.0, 0.8, 0.95, 0.87, 0.93))
    assert "LocalViT-T training eager 0.90; LocalViT-T inference eager 1.00; LocalViT-T training compiled 0.80" in shown
    assert "other families 0.87 to 0.93" in shown
    assert "met by 5 of 6; not by LocalViT-T training compiled" in shown
    assert page("x\n| A, GPU | 0.85 | old |\ny\n", None) == f"x\n{line(None)}\ny\n"


def test_the_page_of_the_clock_is_up_to_date() -> None:
    numbers, text = CLOCK_PAGE["NUMBERS"], CLOCK_PAGE["PAGE"].read_text()
    assert CLOCK_PAGE["page"](text, json.loads(numbers.read_text()) if numbers.exists() else None) == text


def test_a_trial_measures_nothing_of_row_a() -> None:
    results = results_of_a_gpu(0.9)
    assert row_a(results)["verdicts"][0]["ratio"]["median"] == pytest.approx(0.9)
    assert "not_measured" in row_a({**results, "quick": True})
    assert "not_measured" in row_a({**results, "device": "cpu"})
    assert asdict(HERE) == {"device": "cpu", "quick": True}


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
    assert exact(model, Place("cuda", quick=False)) == on_gpu
    assert exact(model, Place("cpu", quick=True)) == 1e-9


def test_hard_activations_of_pytorch_are_their_formulas_but_for_one_derivative_here() -> None:
    swish, sigmoid = float64_of_pytorch(Place("cpu", quick=True))
    assert (swish["model"], sigmoid["model"]) == ("PyTorch's hardswish", "PyTorch's hardsigmoid")
    assert max(swish["outputs"], swish["gradients"], sigmoid["outputs"]) < 1e-15
    assert sigmoid["gradients"] < 1e-7  # a sixth of single precision
    for row in (swish, sigmoid):
        assert row["outputs at most"] == row["gradients at most"] == 1e-6
        assert not row["fault"]
