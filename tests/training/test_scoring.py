"""Scoring after training: which images, which weights, which file; evaluations that are left out; kills in between.

Shape suffixes: M images, K classes, B images of a batch, C channels, H height, W width.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from localvit import LocalityConfig
from localvit.data import AugmentationConfig, DataConfig, InputConfig
from localvit.data.sources import open_parts
from localvit.data.transforms import evaluation_transform
from localvit.models.weights.model_file import load_model
from localvit.system.errors import Interrupted
from localvit.training import (
    HardwareConfig,
    LoggingConfig,
    ModelConfig,
    RunConfig,
    RunResult,
    TrainingConfig,
    read_result,
    run,
)
from localvit.training.progress import TerminalProgress

CONFIG = RunConfig(
    model=ModelConfig(
        "deit_tiny_patch16_224",
        {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2},
        locality=LocalityConfig(),
    ),
    data=DataConfig("digits", held_out=0.25, validation=0.2, train_images=256),
    input=InputConfig((8, 8), 1, (0.3,), (0.37,), crop_fraction=1.0),
    augmentation=AugmentationConfig(repeats=1),
    training=TrainingConfig(
        epochs=4,
        cooldown_epochs=0,
        warmup_epochs=0,
        batch_size=64,
        learning_rate=3e-3,
        learning_rate_images=None,
        ema_decay=0.7,
        checkpoint_minutes=1e-6,
        evaluate_every=2,
    ),
    hardware=HardwareConfig("cpu", threads=1, workers=0),
    logging=LoggingConfig(tensorboard=False),
)


def recipe(**changes: Any) -> RunConfig:
    return replace(CONFIG, training=replace(CONFIG.training, **changes))


def without_validation(**changes: Any) -> RunConfig:
    return replace(recipe(**changes), data=replace(CONFIG.data, validation=0.0))


def logits_of(folder: Path) -> tuple[Tensor, Tensor]:
    tensors = safetensors.torch.load_file(folder / "logits.safetensors")
    assert set(tensors) == {"logits_MK", "labels_M"}
    return tensors["logits_MK"], tensors["labels_M"]


def computed(source: Any, folder: Path) -> Tensor:
    """Logits of the last weights, image by image."""
    model, description = load_model(folder / "last.safetensors")
    transform = evaluation_transform(description.input)
    with torch.no_grad():
        return torch.cat([model(transform(source.read(index))[None]) for index in range(len(source.labels_M))])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, run(CONFIG, folder)


def test_the_test_images_are_scored_once_with_the_last_weights(finished: tuple[Path, RunResult]) -> None:
    folder, result = finished
    test = open_parts(CONFIG.data, channels=1).test
    assert test is not None
    logits_MK, labels_M = logits_of(folder)
    assert (logits_MK.dtype, labels_M.dtype) == (torch.float32, torch.int64)
    assert labels_M.tolist() == test.labels_M.tolist()
    torch.testing.assert_close(logits_MK, computed(test, folder), rtol=1e-4, atol=1e-5)
    places_MK = (-logits_MK).argsort(dim=1)
    assert set(result.test) == {"top1", "top5", "loss"}
    assert result.test["top1"] == pytest.approx(100 * float((places_MK[:, 0] == labels_M).double().mean()))
    assert result.test["top5"] == pytest.approx(
        100 * float((places_MK[:, :5] == labels_M[:, None]).any(1).double().mean())
    )
    assert result.test["loss"] == pytest.approx(float(F.cross_entropy(logits_MK.double(), labels_M)), rel=1e-6)
    assert result.accuracy == result.test["top1"] != result.epochs[-1]["val_top1"]
    assert read_result(folder) == result


@pytest.mark.parametrize("config", [without_validation(), recipe(score_test=False)])
def test_without_test_images_to_score_the_logits_are_those_of_the_held_out_images(
    config: RunConfig, tmp_path: Path
) -> None:
    result = run(config, tmp_path)
    val = open_parts(config.data, channels=1).val
    logits_MK, labels_M = logits_of(tmp_path)
    assert labels_M.tolist() == val.labels_M.tolist()
    torch.testing.assert_close(logits_MK, computed(val, tmp_path), rtol=1e-4, atol=1e-5)
    assert result.test == {}
    assert result.accuracy == result.epochs[-1]["val_top1"]
    assert result.accuracy == pytest.approx(100 * float((logits_MK.argmax(dim=1) == labels_M).double().mean()))


def test_epochs_between_evaluations_have_a_training_loss_alone_and_train_the_same(
    finished: tuple[Path, RunResult], tmp_path: Path
) -> None:
    folder, result = finished
    assert [set(epoch) == {"epoch", "train_loss"} for epoch in result.epochs] == [True, False, True, False]
    every = run(recipe(evaluate_every=1), tmp_path)
    for epoch, other in zip(result.epochs, every.epochs, strict=True):
        assert epoch == {name: other[name] for name in epoch}
    assert every.test == result.test
    assert all(map(torch.equal, logits_of(folder), logits_of(tmp_path)))
    table = pd.read_csv(folder / "metrics.csv")
    assert table["val_top1"].isna().tolist() == [True, False, True, False]
    assert table["ema_loss"].isna().tolist() == [True, False, True, False]
    assert not table[["epoch", "train_loss", "seconds", "images_per_second", "waited_for_data"]].isna().any(axis=None)
    assert result.best["epoch"] in (2, 4)
    assert len(result.timing) == 4


def test_the_terminal_shows_epochs_with_and_without_an_evaluation(tmp_path: Path) -> None:
    console = Console(record=True, force_terminal=False, width=200)
    run(recipe(epochs=2), tmp_path, callbacks=[TerminalProgress(console)])
    first, second = [line for line in console.export_text().splitlines() if line.startswith("epoch")]
    assert "train loss" in first
    assert "val loss" not in first
    assert "averaged weights" in second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3, "evaluate_every": 2}, r"evaluate_every is 2 of 3 epochs; it must divide them"),
        ({"epochs": 3, "cooldown_epochs": 1, "evaluate_every": 3}, r"evaluate_every is 3 of 4 epochs"),
        ({"evaluate_every": -1}, r"evaluate_every is -1; it must be at least 0"),
    ],
)
def test_evaluations_that_would_leave_out_the_last_epoch_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


class _Interruption(Exception):
    """Ends a run without a word."""


class _InterruptScoring(Callback):
    """Ends a run while it scores, at a batch."""

    def __init__(self, batch: int, signal_number: int | None = None) -> None:
        self.batch, self.signal_number = batch, signal_number

    def on_validation_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        if trainer.state.fn == "validate" and args[2] == self.batch:
            if self.signal_number is None:
                raise _Interruption
            os.kill(os.getpid(), self.signal_number)


@pytest.mark.parametrize("signal_number", [None, 15, 2], ids=["killed", "SIGTERM", "SIGINT"])
def test_a_run_interrupted_while_scoring_ends_with_the_same_bits(
    signal_number: int | None, finished: tuple[Path, RunResult], tmp_path: Path
) -> None:
    folder, result = finished
    with pytest.raises(_Interruption if signal_number is None else Interrupted):
        run(CONFIG, tmp_path, callbacks=[_InterruptScoring(1, signal_number)])
    assert read_result(tmp_path) is None
    assert not (tmp_path / "logits.safetensors").exists()
    assert (tmp_path / "last.ckpt").exists()
    assert run(CONFIG, tmp_path) == result
    for name in ("logits", "last", "last_average", "best"):
        ours = safetensors.torch.load_file(tmp_path / f"{name}.safetensors")
        theirs = safetensors.torch.load_file(folder / f"{name}.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name


class _InterruptAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise _Interruption


@pytest.mark.parametrize("step", [3, 4, 6, 11])
def test_a_run_interrupted_between_evaluations_ends_with_the_same_bits(
    step: int, finished: tuple[Path, RunResult], tmp_path: Path
) -> None:
    folder, result = finished
    with pytest.raises(_Interruption):
        run(CONFIG, tmp_path, callbacks=[_InterruptAt(step)])
    assert run(CONFIG, tmp_path) == result
    assert all(map(torch.equal, logits_of(folder), logits_of(tmp_path)))


@pytest.mark.slow
def test_two_processes_write_the_logits_of_one(tmp_path: Path) -> None:
    """Their batches hold other images, so the last digits may differ; order and images do not."""
    path = tmp_path / "recipe.yaml"
    # The held-out images are odd in number, so that one process has one more.
    config = recipe(epochs=2, batch_size=32)
    path.write_text(yaml.safe_dump(config.to_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "localvit", "train"]
    ended = subprocess.run(
        [*command, "--config", str(path), "--output", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    test = open_parts(config.data, channels=1).test
    assert test is not None
    logits_MK, labels_M = logits_of(tmp_path / "run")
    assert labels_M.tolist() == test.labels_M.tolist()
    torch.testing.assert_close(logits_MK, computed(test, tmp_path / "run"), rtol=1e-4, atol=1e-5)
    result = read_result(tmp_path / "run")
    assert result is not None
    assert result.accuracy == pytest.approx(100 * float((logits_MK.argmax(dim=1) == labels_M).double().mean()))


def test_a_folder_of_a_version_without_these_fields_is_read_and_resumed(
    finished: tuple[Path, RunResult], tmp_path: Path
) -> None:
    plain = without_validation(evaluate_every=1)
    with pytest.raises(_Interruption):
        run(plain, tmp_path, callbacks=[_InterruptAt(6)])
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for group, name in [("training", "evaluate_every"), ("training", "score_test"), ("data", "validation")]:
        del settings[group][name]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    result = run(plain, tmp_path)
    assert len(result.epochs) == 4
    values = json.loads((tmp_path / "result.json").read_text())
    del values["test"]
    (tmp_path / "result.json").write_text(json.dumps(values))
    assert read_result(tmp_path) == result
    assert read_result(tmp_path).accuracy == result.accuracy  # type: ignore[union-attr]
