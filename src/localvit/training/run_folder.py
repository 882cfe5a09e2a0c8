"""Trains a recipe in a run folder; the same call again resumes an interrupted run or returns the finished result.

A run folder contains ``config.yaml`` (all that determines the result; itself a recipe), ``record.json`` (when the run
was started, with which versions), ``metrics.csv``, ``last.ckpt`` while training, ``best.safetensors``, and in the end
``last.safetensors``, ``logits.safetensors`` (of all test images, or of all held-out images if there are none) and
``result.json``. Every file is replaced atomically, so a crash at any moment costs no more than the recipe allows.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pandas as pd
import torch
import yaml
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Callback

from localvit.data.module import ImageData
from localvit.data.sources import open_parts
from localvit.models.costs import count_macs, count_parameters
from localvit.models.weights.model_file import ModelDescription, save_model
from localvit.system.errors import Interrupted, LocalViTError
from localvit.system.files import write_text
from localvit.system.plain_files import read_json, read_yaml
from localvit.system.plain_values import build
from localvit.training.checkpointing import CheckpointError, SaveBest, SaveState
from localvit.training.classifier import Classifier
from localvit.training.config import RunConfig
from localvit.training.distillation import Teacher
from localvit.training.history import Epoch, History
from localvit.training.initial_model import attention, build_model
from localvit.training.non_finite import NonFiniteLossError
from localvit.training.overrides import run_config
from localvit.training.record import note_start
from localvit.training.scoring import score
from localvit.training.trainer import build_trainer, is_first_process

STATE, RESULT, CONFIG, METRICS = "last.ckpt", "result.json", "config.yaml", "metrics.csv"
LAST = {"model": "last.safetensors", "average": "last_average.safetensors"}
BEST, LOGITS, BROKEN = "best.safetensors", "logits.safetensors", "broken_images.csv"
_SECONDS_FOR_LOCK = 20


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run.

    Attributes:
        parameters: number of parameters of the model.
        macs: multiply-accumulates per image.
        epochs: metrics of each epoch; accuracies in percent. Those on held-out images are missing in epochs that were
            not evaluated.
        best: epoch, weights (model or average) and top-1 of the best epoch.
        broken_images: number of images that could not be read.
        test: ``top1``, ``top5`` (percent) and ``loss`` on the test images after the last epoch; empty if not scored.
        timing: seconds, images per second and share of time spent waiting for data, for each epoch.
    """

    parameters: int
    macs: int
    epochs: list[Epoch]
    best: dict[str, Any] = field(default_factory=dict)
    broken_images: int = 0
    test: dict[str, float] = field(default_factory=dict)
    timing: list[Epoch] = field(default_factory=list, compare=False)

    @property
    def accuracy(self) -> float:
        """Top-1 in percent after the last epoch, on the test images if they were scored, else on held-out images."""
        return self.test["top1"] if "top1" in self.test else self.epochs[-1]["val_top1"]


def read_result(folder: Path) -> RunResult | None:
    """The result in a run folder; None if the run has not finished.

    Raises:
        LocalViTError: if it is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return result_of(read_json(path))
    except ValueError as error:
        raise LocalViTError(f"{path} is not the result of a run: {error}. Remove it to score the run again") from error


def result_of(values: Any) -> RunResult:
    """A result from its plain values; ``ValueError`` if they are of no result."""
    result = build(RunResult, values)
    if "top1" not in result.test and (not result.epochs or "val_top1" not in result.epochs[-1]):
        raise ValueError("it has no accuracy: neither top1 of the test images nor val_top1 of the last epoch")
    return result


def read_config(folder: Path) -> RunConfig | None:
    """The settings in a run folder; None if it has none.

    Raises:
        ValueError: if they are damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    values = read_yaml(path)
    try:
        return run_config(values)
    except ValueError as error:
        raise ValueError(f"{path} holds no settings of a run: {error}") from error


def run(
    config: RunConfig,
    folder: Path,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train a model, resuming an interrupted run.

    Args:
        config: the run.
        folder: the folder of the run, created if needed.
        on_epoch: called with the metrics of each epoch once they are saved.
        callbacks: further Lightning callbacks, such as progress.

    Returns:
        The result, which is also in the folder.

    Raises:
        LocalViTError: if the run cannot continue with the data, the settings or the machine; saved state is kept.
        Interrupted: after SIGTERM or SIGINT, once the state is saved.
        ValueError: for a model or checkpoint that does not fit the settings.
    """
    with _only_process_in(folder):
        _require_same(config, folder)
        return read_result(folder) or _train(config, folder, on_epoch, callbacks)


@contextlib.contextmanager
def _only_process_in(folder: Path) -> Iterator[None]:
    """Lock the folder for the first process of a run; the run's other processes share it."""
    if not is_first_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # An interrupted process may take a moment to end.
        lock = FileLock(folder / ".lock", is_singleton=True).acquire(timeout=_SECONDS_FOR_LOCK)  # as a worker does
    except Timeout:
        raise LocalViTError(f"another process trains in {folder}; wait for it, or choose another folder") from None
    with lock:
        for unfinished in folder.glob(".*.tmp"):  # a killed process was writing them
            unfinished.unlink()
        yield


def _require_same(config: RunConfig, folder: Path) -> None:
    # A version that lacked some of today's fields did what their defaults do.
    recorded = read_config(folder)
    if recorded is None:
        return
    before, now = _flat(recorded.to_dict()), _flat(config.to_dict())
    changes = [
        f"{key} is {now.get(key)!r} and was {before.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise LocalViTError(
            f"{folder} contains a run with other settings: {'; '.join(changes[:5])}. Choose another folder (--output), "
            "or restore the settings to resume it"
        )


def _require_folder(folder: Path) -> None:
    """Raise if someone has removed the folder, because what is written from now on would be half a run."""
    if not (folder / CONFIG).exists():
        raise LocalViTError(f"{folder} was removed while the run trained; the same command trains it anew")


def _fit(trainer: lightning.Trainer, classifier: Classifier, data: ImageData, state: SaveState) -> None:
    """Train, from the saved state if there is one. What is raised until the first step is done concerns that state."""
    if not state.path.exists():
        trainer.fit(classifier, datamodule=data)
        return
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=state.path)
    except (LocalViTError, Interrupted, OSError, torch.OutOfMemoryError, NonFiniteLossError):
        raise
    except Exception as error:
        if state.trained:
            raise
        raise CheckpointError(
            f"the run cannot go on from {state.path} ({type(error).__name__}: {error}). Remove it to restart the run, "
            "or choose another --output"
        ) from error


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _train(
    config: RunConfig, folder: Path, on_epoch: Callable[[Epoch], None] | None, callbacks: Sequence[Callback]
) -> RunResult:
    hardware = config.hardware
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
    lightning.seed_everything(config.seed, verbose=False)
    parts = open_parts(config.data, channels=config.input.channels)
    num_classes = len(parts.train.class_names)
    with attention(fused=hardware.fused_attention):
        model = build_model(config.model, config.input, num_classes=num_classes, seed=config.seed)
    parameters, macs = count_parameters(model), count_macs(model, (config.input.channels, *config.input.image_size))
    if hardware.channels_last:
        model.to(memory_format=torch.channels_last)
    distillation = config.distillation
    teacher = None if distillation is None else Teacher(distillation, num_classes=num_classes, shown=config.input)
    classifier = Classifier(model, config, num_classes=num_classes, teacher=teacher)
    if hardware.compile:
        model.compile()
    image_data = functools.partial(
        ImageData, data=config.data, shown=config.input, batch_size=config.training.batch_size, workers=hardware.workers
    )
    data = image_data(parts.val, train=parts.train, augmentation=config.augmentation, seed=config.seed)
    description = ModelDescription(config.model.name, config.model.arguments, parts.train.class_names, config.input)
    history, best = History(folder / METRICS), SaveBest(folder / BEST, description)
    minutes = config.training.checkpoint_minutes
    require_folder = functools.partial(_require_folder, folder)
    state = SaveState(folder / STATE, minutes=minutes, history=history, on_epoch=on_epoch, before_saving=require_folder)
    trainer = build_trainer(config, folder, [history, *callbacks, best, state])
    if trainer.is_global_zero:
        write_text(folder / CONFIG, yaml.safe_dump(config.to_dict(), sort_keys=False))
        note_start(folder, seed=config.seed, world_size=trainer.world_size)
    test = parts.test if config.training.score_test else None
    try:
        _fit(trainer, classifier, data, state)
        scored = image_data(parts.val if test is None else test, batch_size=2 * config.training.batch_size)
        scores = score(trainer, classifier.model, scored, channels_last=hardware.channels_last)
    except NonFiniteLossError as error:
        raise LocalViTError(
            f"{error}, so the run has stopped; its last checkpoint is kept. {error.write(folder)} lists the images of "
            "that step and the norms of the layers. A lower learning_rate, gradient_clip 1.0 or precision 32-true may "
            "help; use another --output"
        ) from error
    finally:
        state.give_signals_back()

    broken_images = sorted(classifier.broken_images.union(scores.broken_images))
    result = RunResult(
        parameters,
        macs,
        history.epochs,
        best.best,
        len(broken_images),
        test={} if test is None else scores.figures(),
        timing=history.timing,
    )
    if trainer.is_global_zero:
        require_folder()
        scores.save(folder / LOGITS)
        for name, weights in classifier.weights().items():
            save_model(weights, description, folder / LAST[name], verify=False)
        if broken_images:
            write_text(folder / BROKEN, pd.DataFrame({"image": broken_images}).to_csv(index=False))
        write_text(folder / RESULT, json.dumps(asdict(result), indent=1))
        state.path.unlink(missing_ok=True)
    trainer.strategy.barrier("finished")
    return result
