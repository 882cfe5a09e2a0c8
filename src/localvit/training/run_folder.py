"""One recipe in, one run folder out; the same call again resumes it, or returns what it gave.

A run folder holds ``config.yaml`` (all that decides the result; a recipe itself), ``record.json`` (what was started
when, with which versions), ``metrics.csv``, ``last.ckpt`` while training, ``best.safetensors``, and once finished
``last.safetensors`` and ``result.json``. The files replace each other whole, so a crash at any moment costs no more
than what the recipe says.
"""

import contextlib
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
from localvit.system.errors import LocalViTError
from localvit.system.files import write_text
from localvit.training.checkpointing import SaveBest, SaveState
from localvit.training.classifier import Classifier
from localvit.training.config import RunConfig
from localvit.training.distillation import Teacher
from localvit.training.history import Epoch, History
from localvit.training.initial_model import attention, build_model
from localvit.training.non_finite import NonFiniteLossError
from localvit.training.record import note_start
from localvit.training.trainer import build_trainer, is_first_process
from localvit.weights.model_file import ModelDescription, save_model

STATE, RESULT, CONFIG, METRICS = "last.ckpt", "result.json", "config.yaml", "metrics.csv"
LAST = {"model": "last.safetensors", "average": "last_average.safetensors"}
BEST, BROKEN = "best.safetensors", "broken_images.csv"
_SECONDS_FOR_LOCK = 20


@dataclass(frozen=True)
class RunResult:
    """What a finished run gave.

    Attributes:
        parameters: of the model.
        macs: multiply-accumulates of one image.
        epochs: the metrics of each epoch; accuracies in percent.
        best: epoch, weights (model, or their average) and top-1 of the best epoch.
        broken_images: how many images could not be read.
        timing: of each epoch: seconds, images a second and the share of time spent waiting for data.
    """

    parameters: int
    macs: int
    epochs: list[Epoch]
    best: dict[str, Any] = field(default_factory=dict)
    broken_images: int = 0
    timing: list[Epoch] = field(default_factory=list, compare=False)

    @property
    def accuracy(self) -> float:
        """Of the images held out in percent, after the last epoch: no epoch is chosen by looking at them."""
        return self.epochs[-1]["val_top1"]


def read_result(folder: Path) -> RunResult | None:
    """The result in a run folder, or None where the run has not finished."""
    path = folder / RESULT
    return RunResult(**json.loads(path.read_text())) if path.exists() else None


def run(
    config: RunConfig,
    folder: Path,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train one model, from where it was interrupted if it was.

    Args:
        config: the run.
        folder: its own folder, made where there is none.
        on_epoch: told the metrics of each epoch once they are saved.
        callbacks: further ones of Lightning, such as progress.

    Returns:
        The result, which is in the folder too.

    Raises:
        LocalViTError: for data, settings or a machine that the run cannot go on with; nothing saved is lost.
        Interrupted: after SIGTERM or SIGINT, when the state is saved.
        ValueError: for a model or checkpoint that does not fit the settings.
    """
    with _only_process_in(folder):
        result = read_result(folder)
        _require_same(config, folder)
        if result is None:
            result = _train(config, folder, on_epoch, callbacks)
        return result


@contextlib.contextmanager
def _only_process_in(folder: Path) -> Iterator[None]:
    """The first process of a run holds its folder; the others are its own."""
    if not is_first_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # An interrupted process may need a moment until the system has ended it.
        lock = FileLock(folder / ".lock", timeout=_SECONDS_FOR_LOCK)
        lock.acquire()
    except Timeout:
        raise LocalViTError(f"another process trains in {folder}; wait for it, or choose another folder") from None
    try:
        for unfinished in folder.glob(".*.tmp"):  # files that a killed process was writing
            unfinished.unlink()
        yield
    finally:
        lock.release()


def _require_same(config: RunConfig, folder: Path) -> None:
    path = folder / CONFIG
    if not path.exists():
        return
    before = _flat(yaml.safe_load(path.read_text()))
    now = _flat(config.to_dict())
    changes = [
        f"{key} is {now.get(key)!r} and was {before.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise LocalViTError(
            f"{folder} holds a run with other settings: {'; '.join(changes[:5])}. Choose another folder (--output), or "
            "give the settings as they were to go on with it"
        )


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
        model = build_model(config.model, config.input, num_classes=num_classes)
    parameters, macs = count_parameters(model), count_macs(model, (config.input.channels, *config.input.image_size))
    if hardware.channels_last:
        model.to(memory_format=torch.channels_last)
    teacher = (
        None
        if config.distillation is None
        else Teacher(config.distillation, num_classes=num_classes, shown=config.input)
    )
    classifier = Classifier(model, config, num_classes=num_classes, teacher=teacher)
    if hardware.compile:
        model.compile()
    data = ImageData(
        parts.val,
        config.data,
        config.input,
        batch_size=config.training.batch_size,
        workers=hardware.workers,
        train=parts.train,
        augmentation=config.augmentation,
        seed=config.seed,
    )
    description = ModelDescription(config.model.name, config.model.arguments, parts.train.class_names, config.input)
    history, best = History(folder / METRICS), SaveBest(folder / BEST, description)
    minutes = config.training.checkpoint_minutes
    state = SaveState(folder / STATE, minutes=minutes, history=history, on_epoch=on_epoch)
    trainer = build_trainer(config, folder, [history, *callbacks, best, state])
    if trainer.is_global_zero:
        write_text(folder / CONFIG, yaml.safe_dump(config.to_dict(), sort_keys=False))
        note_start(folder, seed=config.seed, world_size=trainer.world_size)
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=state.path if state.path.exists() else None)
    except NonFiniteLossError as error:
        raise LocalViTError(
            f"{error}, and the run has stopped; its last checkpoint is kept. {error.write(folder)} has the images of "
            "that step and the norms of the layers. A lower learning_rate, gradient_clip 1.0 or precision 32-true may "
            "help, with another --output"
        ) from error
    finally:
        state.give_signals_back()

    result = RunResult(
        parameters, macs, history.epochs, best.best, len(classifier.broken_images), timing=history.timing
    )
    if trainer.is_global_zero:
        for name, weights in classifier.weights().items():
            save_model(weights, description, folder / LAST[name])
        if classifier.broken_images:
            broken = pd.DataFrame({"image": sorted(classifier.broken_images)})
            write_text(folder / BROKEN, broken.to_csv(index=False))
        write_text(folder / RESULT, json.dumps(asdict(result), indent=1))
        state.path.unlink(missing_ok=True)
    trainer.strategy.barrier("finished")
    return result
