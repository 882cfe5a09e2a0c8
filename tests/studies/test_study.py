"""A study from the command line, in real processes: results, interruptions, restarts, wrong input."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from localvit.cli import main

STUDY = """\
name: small
question: Does it help?
paper_finding: Yes.
baseline: DeiT
seeds: [0, 1]
variants:
  - name: DeiT
  - name: no depth-wise
    locality: {depthwise: false}
  - name: depth-wise & "SE"
    locality: {channel_attention: se}
    control: no depth-wise
    paper_gain: 2.6
recipe:
  model:
    name: deit_tiny_patch16_224
    arguments: {patch_size: 4, embed_dim: 12, depth: 1, num_heads: 2}
  data: {source: digits, held_out: 0.5}
  input: {image_size: [8, 8], channels: 1, mean: [0.3], std: [0.37], crop_fraction: 1.0}
  augmentation:
    {horizontal_flip: 0, policy: null, color_jitter: 0, random_erasing: 0, repeats: 1, mixup: 0, cutmix: 0}
  training:
    {epochs: 5, cooldown_epochs: 0, warmup_epochs: 1, batch_size: 64, learning_rate: 0.003, learning_rate_images: null,
     ema_decay: 0, checkpoint_minutes: 0.000001}
  hardware: {accelerator: cpu, threads: 1, workers: 0}
  logging: {tensorboard: false}
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """The small study as a file."""
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return path


def command(study_file: Path, *arguments: str, output: Path | None = None) -> list[str]:
    folder = output or study_file.parent / "runs"
    return [sys.executable, "-m", "localvit", "study", str(study_file), "--output", str(folder), *arguments]


def run_study(study_file: Path, *arguments: str, output: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        command(study_file, *arguments, output=output), capture_output=True, text=True, check=False, env=environment
    )


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "small" / "results.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a study that ran without interruption, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    study_file = folder / "small.yaml"
    study_file.write_text(STUDY)
    ended = run_study(study_file)
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


def test_a_study_ends_with_table_report_and_results(finished: tuple[Path, str]) -> None:
    folder, printed = finished[0] / "runs", finished[1]
    found = results(folder)
    assert list(found) == ["study", "data", "baseline", "variants"]
    assert [variant["name"] for variant in found["variants"]] == ["DeiT", "no depth-wise", 'depth-wise & "SE"']
    for variant in found["variants"]:
        assert list(variant) == ["name", "parameters", "macs", "accuracy", "gain"]
        per_seed = variant["accuracy"]["per_seed"]
        assert variant["accuracy"]["mean"] == pytest.approx(sum(per_seed) / 2)
        assert all(0 < accuracy <= 100 for accuracy in per_seed)
        row = next(line for line in printed.splitlines() if line.strip().startswith(variant["name"]))
        assert f"{variant['parameters']:,}" in row
        assert f"{variant['macs']:,}" in row
        assert f"{variant['accuracy']['mean']:.2f} ±" in row
    assert str(folder / "small" / "report.html") in printed
    with (folder / "small" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["gain_mean"]) for row in rows] == [variant["gain"]["mean"] for variant in found["variants"]]
    assert [float(rows[1][f"accuracy_run_{i}"]) for i in (0, 1)] == found["variants"][1]["accuracy"]["per_seed"]


def test_a_finished_study_trains_nothing_again(finished: tuple[Path, str]) -> None:
    folder = finished[0] / "runs"
    before, found = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}, results(folder)
    assert len(before) == 6
    again = run_study(finished[0] / "small.yaml")
    assert "6 of 6 runs were finished before" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == before
    assert results(folder) == found


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_study_goes_on_and_ends_with_the_same_numbers(
    end: signal.Signals, study_file: Path, finished: tuple[Path, str]
) -> None:
    interrupted = study_file.parent / "interrupted"
    process = subprocess.Popen(
        command(study_file, output=interrupted),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has them ignore Ctrl-C, and a process inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(interrupted.rglob("result.json")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    if end == signal.SIGINT:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the children too
    else:
        os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on" in errors
        assert "Traceback" not in errors
    _wait_until_group_is_gone(process.pid)
    before = len(list(interrupted.rglob("result.json")))
    assert 0 < before < 6

    again = run_study(study_file, output=interrupted)
    assert again.returncode == 0, again.stderr
    assert f"{before} of 6 runs were finished before" in again.stdout
    assert results(interrupted) == results(finished[0] / "runs")


def _wait_until_group_is_gone(group: int) -> None:
    """Training processes end by themselves when what started them is gone."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("training processes outlived the study")


def test_two_studies_do_not_share_a_folder(study_file: Path) -> None:
    long = ["--recipe.training.epochs", "1000"]
    process = subprocess.Popen(command(study_file, *long), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not list(study_file.parent.rglob("config.yaml")):
            assert process.poll() is None
            time.sleep(0.02)
        second = run_study(study_file, *long)
        assert second.returncode == 1
        assert "another process is running a study in" in " ".join(second.stderr.split())
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--recipe.training.epoch", "3"],
            "unrecognized arguments: --recipe.training.epoch 3. Did you mean recipe.training.epochs?",
        ),
        (["--recipe.training.epochs", "many"], "recipe.training.epochs"),
        (["--recipe.training.warmup_epochs", "9"], "warmup_epochs is 9 of 5 epochs; it must be fewer"),
        (["--seeds", "[1]"], "an interval needs at least two"),
    ],
)
def test_wrong_options_end_with_what_is_wrong(
    arguments: list[str], message: str, study_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["study", str(study_file), *arguments])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_misspelt_field_in_the_file_is_refused(study_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study_file.write_text(study_file.read_text().replace("depthwise: false", "depth_wise: false"))
    with pytest.raises(SystemExit):
        main(["study", str(study_file)])
    assert "depth_wise" in capsys.readouterr().err


def test_a_run_that_cannot_start_is_named_without_a_traceback(study_file: Path) -> None:
    ended = run_study(study_file, "--recipe.model.name", "deit_tinny")
    assert ended.returncode == 1
    assert "the run DeiT, seed 0 failed: there is no model deit_tinny" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["study", "--help"])
    printed = capsys.readouterr().out
    for field in (
        "--recipe.training.learning_rate",
        "--recipe.data.held_out",
        "--recipe.model.name",
        "--seeds",
        "--jobs",
    ):
        assert field in printed
    assert "at its highest, after the warm-up" in " ".join(printed.split())
