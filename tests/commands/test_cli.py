"""The commands of a run, from recipe to prediction, as a user gives them."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from localvit.commands.cli import main

RECIPE = """\
model:
  name: deit_tiny_patch16_224
  arguments: {patch_size: 4, embed_dim: 12, depth: 1, num_heads: 2}
  locality: {activation: hswish}
data: {source: digits, held_out: 0.25}
input: {image_size: [8, 8], channels: 1, mean: [0.3], std: [0.37], crop_fraction: 1.0}
augmentation: {policy: null}
training: {epochs: 2, cooldown_epochs: 0, warmup_epochs: 1, batch_size: 64, learning_rate: 0.01}
hardware: {accelerator: cpu, threads: 1, workers: 0}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "digits.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Path:
    """The folder of a finished run."""
    folder = recipe.parent / "run"
    assert main(["train", str(recipe), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def test_a_run_folder_answers_what_this_was(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        ".lock",
        "best.safetensors",
        "config.yaml",
        "last.safetensors",
        "last_average.safetensors",
        "logits.safetensors",
        "metrics.csv",
        "record.json",
        "result.json",
        "tensorboard",
    }
    start = json.loads((finished / "record.json").read_text())["starts"][0]
    assert start["seed"] == 0
    assert start["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert set(start["code"]) == {"commit", "changed"}
    result = json.loads((finished / "result.json").read_text())
    table = pd.read_csv(finished / "metrics.csv", converters={"val_top1": float})  # exact in any pandas
    assert table["epoch"].tolist() == [1, 2]
    assert table["val_top1"].tolist() == [epoch["val_top1"] for epoch in result["epochs"]]
    assert {"images_per_second", "waited_for_data", "ema_top1", "val_top5", "train_loss"} <= set(table.columns)
    assert list((finished / "tensorboard").glob("events.out.tfevents.*"))


def test_the_saved_configuration_is_a_recipe_of_the_same_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "result.json").stat().st_mtime_ns
    assert main(["train", "--config", str(finished / "config.yaml"), "--output", str(finished)]) == 0
    assert (finished / "result.json").stat().st_mtime_ns == before, "it was trained again"
    assert "after the last epoch" in capsys.readouterr().out


def test_a_folder_of_other_settings_is_refused(
    finished: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), "--training.epochs", "3", "--output", str(finished)]) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "other settings: training.epochs is 3 and was 2" in printed
    assert "--output" in printed


def test_evaluation_gives_the_accuracy_that_training_saw(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.source", "digits", "--data.held_out", "0.25", "--hardware.accelerator", "cpu"]
    options += ["--hardware.workers", "0", "--output", str(tmp_path)]
    assert main(["eval", "--checkpoint", str(finished / "best.safetensors"), *options]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["top1"] == pytest.approx(json.loads((finished / "result.json").read_text())["best"]["top1"])
    assert f"top-1 {metrics['top1']:.2f} %" in " ".join(capsys.readouterr().out.split())


def test_prediction_prints_a_line_of_json_an_image_and_fails_if_one_did(
    finished: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "--checkpoint", str(finished / "best.safetensors"), "--top", "3", "--json", str(scan)]
    assert main(arguments) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["path"] == str(scan)
    assert len(row["predictions"]) == 3
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    assert main([*arguments, str(text)]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(row) for row in rows] == [["path", "predictions"], ["path", "error"]]


class _Malicious:
    """What a pickle can ask for: here to make a file, elsewhere anything."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.made),)  # type: ignore[return-value]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
@pytest.mark.parametrize("form", ["bare", "zip"])
def test_no_command_runs_code_from_a_file(
    suffix: str, form: str, recipe: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, file = tmp_path / "made", tmp_path / f"weights{suffix}"
    content = {"model": _Malicious(made)}
    if form == "zip":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    # It would run: the test can fail.
    pickle.loads(pickle.dumps(_Malicious(made)))  # noqa: S301
    assert made.exists()
    made.unlink()

    resumed = tmp_path / "resumed"
    resumed.mkdir()
    (resumed / "last.ckpt").write_bytes(file.read_bytes())
    train = ["train", str(recipe), "--output"]
    commands = [
        ["predict", "--checkpoint", str(file), str(scan)],
        ["predict", "--model", "deit_tiny_patch16_224", "--checkpoint", str(file), str(scan)],
        ["eval", "--checkpoint", str(file), "--data.source", "digits", "--data.held_out", "0.5"],
        ["convert", str(file), str(tmp_path / "out.safetensors")],
        [*train, str(tmp_path / "a"), "--model.checkpoint", str(file)],
        [*train, str(tmp_path / "b"), "--distillation.teacher", "resnet10t", "--distillation.checkpoint", str(file)],
        [*train, str(resumed)],
    ]
    for command in commands:
        assert main(command) == 1, command
        assert "run code" in " ".join(capsys.readouterr().err.split()), command
        assert not made.exists(), command


def test_all_fields_can_be_printed_as_a_recipe(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", str(recipe), "--training.epochs", "7", "--print_config"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["training"]["epochs"] == 7
    assert printed["model"]["arguments"]["patch_size"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--training.epoch", "3"], "Did you mean training.epochs?"),
        (["--data.on_brocken", "skip"], "Did you mean data.on_broken?"),
        (["--training.epochs", "many"], "training.epochs"),
        (["--data.source", "folders"], "'folder', 'parquet', 'webdataset'"),
        (["--training.warmup_epochs", "9"], "warmup_epochs is 9 of 2 epochs; it must be fewer"),
    ],
)
def test_wrong_options_end_with_what_is_right(
    arguments: list[str], message: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", str(recipe), *arguments])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_model_that_is_not_there_is_named_with_the_nearest(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "run")]
    assert main(["train", str(recipe), "--model.name", "localvit_tini_patch16_224", *output]) == 1
    assert "localvit_tiny_patch16_224" in " ".join(capsys.readouterr().err.split())
