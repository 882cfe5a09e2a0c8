"""A study from the command line, in real processes: results, interruptions, restarts, wrong input."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import pytest
from filelock import FileLock

from localvit.commands.cli import main
from localvit.studies.running.local import LocalBackend
from localvit.system.terminal import RESULTS

STUDY = """\
name: small
question: Does it help?
paper_finding: Yes.
baseline: DeiT
seeds: [0, 1]
variants:
  DeiT: {}
  no depth-wise: {model.locality: {depthwise: false}}
  depth-wise & "SE": {model.locality: {channel_attention: se}}
claims:
  - {better: depth-wise & "SE", than: no depth-wise, points: 2.6}
"""
SCALE = """\
model:
  name: deit_tiny_patch16_224
  arguments: {patch_size: 4, embed_dim: 12, depth: 1, num_heads: 2}
data: {source: digits, held_out: 0.5}
input: {image_size: [8, 8], channels: 1, mean: [0.3], std: [0.37], crop_fraction: 1.0}
augmentation:
  {horizontal_flip: 0, policy: null, color_jitter: 0, random_erasing: 0, repeats: 1, mixup: 0, cutmix: 0}
training:
  {epochs: 5, cooldown_epochs: 0, warmup_epochs: 1, batch_size: 64, learning_rate: 0.003, learning_rate_images: null,
   ema_decay: 0}
hardware: {accelerator: cpu, threads: 1, workers: 0}
logging: {tensorboard: false}
"""


def write_study(folder: Path) -> Path:
    """The small study and its scale as files."""
    (folder / "tiny.yaml").write_text(SCALE)
    path = folder / "small.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """The small study, with its scale beside it."""
    return write_study(tmp_path)


def command(study_file: Path, *arguments: str, output: Path | None = None) -> list[str]:
    folder = output or study_file.parent / "runs"
    scale = str(study_file.with_name("tiny.yaml"))
    output_options = ["--output", str(folder)]
    options = ["--scale", scale, "--measure", "false", *output_options, *arguments]
    return [sys.executable, "-m", "localvit", "study", str(study_file), *options]


def run_study(study_file: Path, *arguments: str, output: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which has imported everything already; training has a process of its own."""
    words = command(study_file, "--jobs", "1", *arguments, output=output)[3:]
    printed, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(RESULTS, "width", 100)
        try:
            status = main(words)
        except SystemExit as ended:
            status = int(str(ended.code))
    return subprocess.CompletedProcess(words, status, printed.getvalue(), errors.getvalue())


def accuracies(folder: Path) -> dict[str, list[float]]:
    return {variant["name"]: variant["accuracy"]["per_seed"] for variant in results(folder)["variants"]}


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "small-tiny" / "results.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a study that ran without interruption, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    ended = run_study(write_study(folder), "--measure", "true")
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


def test_a_study_ends_with_table_report_and_results(finished: tuple[Path, str]) -> None:
    folder, printed = finished[0] / "runs", finished[1]
    found = results(folder)
    assert list(found)[:4] == ["study", "data", "baseline", "variants"]
    assert [variant["name"] for variant in found["variants"]] == ["DeiT", "no depth-wise", 'depth-wise & "SE"']
    for variant in found["variants"]:
        assert list(variant)[:5] == ["name", "parameters", "macs", "accuracy", "gain"]
        per_seed = variant["accuracy"]["per_seed"]
        assert variant["accuracy"]["mean"] == pytest.approx(sum(per_seed) / 2)
        assert all(0 < accuracy <= 100 for accuracy in per_seed)
        row = next(line for line in printed.splitlines() if line.strip().startswith(variant["name"]))
        assert f"{variant['parameters']:,}" in row
        assert f"{variant['macs']:,}" in row
        assert f"{variant['accuracy']['mean']:.2f} ±" in row
        # It was measured: some 300 images of 8 x 8 a second at least, and slower training than classifying.
        assert 300 < variant["training_images_per_second"] < variant["inference_images_per_second"]
        assert variant["training_memory"] > 4 * 3 * variant["parameters"]  # weights and two moments, of 4 bytes
    assert str(folder / "small-tiny" / "report.html") in printed
    with (folder / "small-tiny" / "results.csv").open() as file:
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
    assert {**results(folder), "command": found["command"]} == found


def test_ctrl_c_keeps_finished_runs_and_the_same_command_goes_on(study_file: Path, finished: tuple[Path, str]) -> None:
    interrupted = study_file.parent / "interrupted"

    def press() -> None:
        while not list(interrupted.rglob("result.json")):
            if over.wait(0.02):
                return
        os.kill(os.getpid(), signal.SIGINT)

    over = threading.Event()
    # What a shell starts in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=press, daemon=True).start()
    try:
        ended = run_study(study_file, output=interrupted)
    finally:
        over.set()
        signal.signal(signal.SIGINT, before)
    assert ended.returncode == 130
    assert "run the same command again to resume" in ended.stderr
    _assert_it_goes_on(study_file, interrupted, finished)


def _assert_it_goes_on(study_file: Path, folder: Path, finished: tuple[Path, str], *arguments: str) -> None:
    before = len(list(folder.rglob("result.json")))
    assert 0 < before < 6
    again = run_study(study_file, *arguments, output=folder)
    assert again.returncode == 0, again.stderr
    assert f"{before} of 6 runs were finished before" in again.stdout
    assert accuracies(folder) == accuracies(finished[0] / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_study_goes_on_and_ends_with_the_same_numbers(
    end: signal.Signals, study_file: Path, finished: tuple[Path, str]
) -> None:
    """Ctrl-C saves the state of a run; SIGKILL leaves the last checkpoint."""
    interrupted = study_file.parent / "interrupted"
    often = ["--recipe.training.checkpoint_minutes", "0.000001"] if end == signal.SIGKILL else []
    process = subprocess.Popen(
        command(study_file, *often, output=interrupted),
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
        assert "run the same command again to resume" in errors
        assert "Traceback" not in errors
    _wait_until_group_is_gone(process.pid)
    _assert_it_goes_on(study_file, interrupted, finished, *often)


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
    folder = study_file.parent / "runs" / "small-tiny"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        second = run_study(study_file)
    assert second.returncode == 1
    assert "another process is running a study in" in " ".join(second.stderr.split())
    assert not list(folder.parent.rglob("config.yaml"))


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
        main(["study", str(study_file), "--scale", str(study_file.with_name("tiny.yaml")), *arguments])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_misspelt_field_in_the_file_is_refused(study_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study_file.write_text(study_file.read_text().replace("depthwise: false", "depth_wise: false"))
    with pytest.raises(SystemExit):
        main(["study", str(study_file)])
    assert "depth_wise" in capsys.readouterr().err


def test_a_model_that_cannot_be_built_is_refused_before_anything_runs(study_file: Path) -> None:
    ended = run_study(study_file, "--recipe.model.name", "deit_tinny")
    assert ended.returncode == 1
    assert "there is no model deit_tinny; near are" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert not list(study_file.parent.rglob("config.yaml"))


def test_a_variant_that_fails_is_shown_with_its_error_and_the_others_go_on(study_file: Path) -> None:
    study_file.write_text(STUDY.replace("no depth-wise: {", "no depth-wise: {training.learning_rate: 1.0e+30, "))
    ended = run_study(study_file)
    assert ended.returncode == 1
    printed = " ".join(ended.stdout.split())
    assert "no depth-wise, seed 0: failed: the loss" in printed
    folder = study_file.parent / "runs" / "small-tiny"
    found = json.loads((folder / "results.json").read_text())
    assert [len(variant["accuracy"]["per_seed"]) for variant in found["variants"]] == [2, 0, 2]
    assert [(run["variant"], run["seed"]) for run in found["failed"]] == [("no depth-wise", 0), ("no depth-wise", 1)]
    assert "the loss" in (folder / "report.html").read_text()


def test_a_dry_run_shows_costs_and_time_and_trains_nothing(study_file: Path, finished: tuple[Path, str]) -> None:
    ended = run_study(study_file, "--dry-run")
    assert ended.returncode == 0, ended.stderr
    for variant in results(finished[0] / "runs")["variants"]:
        row = next(line for line in ended.stdout.splitlines() if line.strip().startswith(variant["name"]))
        assert f"{variant['parameters']:,}" in row
        assert f"{variant['macs']:,}" in row
    assert re.search(r"6 of 6 runs to train, \d+ at a time on this machine: about 0:0\d:\d\d", ended.stdout)
    assert not list(study_file.parent.rglob("config.yaml"))


def test_a_dry_run_without_the_images_counts_all_the_same(study_file: Path) -> None:
    recipe = study_file.with_name("tiny.yaml")
    recipe.write_text(recipe.read_text().replace("{source: digits, held_out: 0.5}", "{source: folder, root: /nowhere}"))
    ended = run_study(study_file, "--dry-run")
    assert ended.returncode == 0, ended.stderr
    printed = " ".join(ended.stdout.split())
    assert "6 of 6 runs to train" in printed
    assert ": about" not in printed
    assert "The duration is unknown: /nowhere does not exist" in printed


def test_shards_train_their_share_and_the_report_comes_from_all(
    study_file: Path, finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in ("1/2", "2/2"):
        ended = run_study(study_file, "--shard", shard)
        assert ended.returncode == 0, ended.stderr
        assert "When all shards are done: localvit report" in ended.stdout
    folder = study_file.parent / "runs" / "small-tiny"
    assert not (folder / "report.html").exists()
    assert main(["report", str(folder)]) == 0
    assert "Report:" in capsys.readouterr().out
    assert accuracies(study_file.parent / "runs") == accuracies(finished[0] / "runs")


def test_a_report_is_written_anew_from_the_studys_folder_alone(
    tmp_path: Path, finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sent" / "small-tiny"
    shutil.copytree(finished[0] / "runs" / "small-tiny", folder)
    before = json.loads((folder / "results.json").read_text())
    for name in ("report.html", "report.md", "results.csv", "results.json", "results.tex"):
        (folder / name).unlink()
    assert main(["report", str(folder)]) == 0
    assert json.loads((folder / "results.json").read_text()) == before
    assert (folder / "report.html").stat().st_size > 1_000_000  # it has Plotly in it
    assert main(["report", str(tmp_path)]) == 1
    assert "holds no study" in capsys.readouterr().err


def test_the_same_study_with_other_seeds_becomes_one(study_file: Path, finished: tuple[Path, str]) -> None:
    more = study_file.parent / "more"
    ended = run_study(study_file, "--seeds", "[2, 3]", output=more)
    assert ended.returncode == 0, ended.stderr
    both = [str(finished[0] / "runs" / "small-tiny"), str(more / "small-tiny")]
    assert main(["report", *both, "--output", str(study_file.parent / "merged")]) == 0
    found = json.loads((study_file.parent / "merged" / "results.json").read_text())
    expected = [
        accuracies(finished[0] / "runs")[name] + accuracies(more)[name] for name in accuracies(finished[0] / "runs")
    ]
    assert [variant["accuracy"]["per_seed"] for variant in found["variants"]] == expected

    # Without any run folder, the record is enough: a run that it lacks is trained, the others are not.
    elsewhere = study_file.parent / "elsewhere" / "small-tiny"
    elsewhere.mkdir(parents=True)
    record = json.loads((study_file.parent / "merged" / "study.json").read_text())
    lost = next(outcome for outcome in record["outcomes"] if outcome["variant"] == "DeiT" and outcome["seed"] == 1)
    lost["result"] = None
    (elsewhere / "study.json").write_text(json.dumps(record))
    ended = run_study(study_file, "--seeds", "[0, 1, 2, 3]", output=elsewhere.parent)
    assert ended.returncode == 0, ended.stderr
    assert "11 of 12 runs were finished before" in ended.stdout
    assert [*accuracies(elsewhere.parent).values()] == expected
    assert len(list((elsewhere.parent / "runs").iterdir())) == 1


def test_a_record_keeps_the_choices_of_a_sweep(study_file: Path, finished: tuple[Path, str]) -> None:
    names = [*accuracies(finished[0] / "runs")]
    sweep = {"groups": {"all": names}, "grid": [0.003, 0.01], "seeds": [1000]}
    study_file.write_text(STUDY + f"sweep: {json.dumps(sweep)}\n")
    record = json.loads((finished[0] / "runs" / "small-tiny" / "study.json").read_text())
    record["config"]["sweep"] = sweep
    for overrides in record["config"]["variants"].values():
        overrides["training.learning_rate"] = 0.003
    record["sweep"] = [
        {"group": "all", "value": value, "accuracies": [50.0], "chosen": value == 0.003} for value in sweep["grid"]
    ]
    folder = study_file.parent / "runs" / "small-tiny"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(record))
    ended = run_study(study_file)
    assert ended.returncode == 0, ended.stderr
    assert "all: training.learning_rate 0.003" in ended.stdout
    assert "6 of 6 runs were finished before" in ended.stdout
    assert accuracies(folder.parent) == accuracies(finished[0] / "runs")
    assert not (folder.parent / "runs").exists()


def test_the_processes_of_the_sweep_train_all_looks(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[LocalBackend] = []

    class Counted(LocalBackend):
        def __enter__(self) -> Self:
            opened.append(self)
            return super().__enter__()

    monkeypatch.setattr("localvit.studies.running.local.LocalBackend", Counted)
    sweep = {"groups": {"all": ["DeiT"]}, "grid": [0.003, 0.01], "seeds": [1000]}
    study_file.write_text(f"{STUDY}sweep: {json.dumps(sweep)}\nlooks: [2]\n")
    ended = run_study(study_file, "--seeds", "[0, 1, 2]", "--recipe.training.epochs", "2")
    assert ended.returncode == 0, ended.stderr
    assert len(results(study_file.parent / "runs")["looks"]) == 2
    assert len(opened) == 1
    assert opened[0].free() == 1  # and nothing is left running


def test_the_record_of_a_study_that_was_killed_in_its_sweep_is_enough_to_go_on(study_file: Path) -> None:
    sweep = {"groups": {"all": ["DeiT", "no depth-wise"]}, "grid": [0.003, 0.01, 0.03], "seeds": [1000]}
    study_file.write_text(STUDY + f"sweep: {json.dumps(sweep)}\n")
    output, elsewhere = study_file.parent / "runs", study_file.parent / "elsewhere"
    record = output / "small-tiny" / "study.json"
    process = subprocess.Popen(command(study_file, "--jobs", "1"), stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not (record.exists() and finished_runs(record, "sweep_runs")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    known = finished_runs(record, "sweep_runs")
    assert 0 < len(known) < 3

    # The folders of the runs are lost, and only the record travels.
    (elsewhere / "small-tiny").mkdir(parents=True)
    shutil.copy(record, elsewhere / "small-tiny")
    planned = run_study(study_file, "--dry-run", output=elsewhere)
    assert f"{9 - len(known)} of 9 runs to train" in " ".join(planned.stdout.split())
    assert re.search(rf"\(sweep\) +{len(known)} of 3", planned.stdout)
    ended = run_study(study_file, output=elsewhere)
    assert ended.returncode == 0, ended.stderr
    assert f"{len(known)} of 3 runs were finished before" in ended.stdout
    trained = {path.name for path in (elsewhere / "runs").iterdir()}
    assert len(trained) == 9 - len(known)
    assert not trained & {outcome["folder"] for outcome in known}
    complete = json.loads((elsewhere / "small-tiny" / "study.json").read_text())
    assert [found["value"] for found in complete["sweep"]] == sweep["grid"]
    assert {accuracy for found in complete["sweep"] for accuracy in found["accuracies"]} >= {
        outcome["result"]["epochs"][-1]["val_top1"] for outcome in known
    }
    assert complete["sweep_runs"] == []


def finished_runs(record: Path, which: str) -> list[dict[str, Any]]:
    """The finished ones of the outcomes in a record."""
    return [outcome for outcome in json.loads(record.read_text())[which] if outcome["result"] is not None]


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
    assert "peak learning rate, after warm-up" in " ".join(printed.split())
