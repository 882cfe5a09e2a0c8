"""One recipe in, one run folder out; the same call again resumes it, or returns what it gave.

A run folder holds ``config.json`` (all that decides the result), ``checkpoint.ckpt`` while training, and
``result.json`` once finished. The files replace each other whole, so a crash at any moment costs at most
``checkpoint_every_epochs`` epochs.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning.pytorch as lightning
import torch
from filelock import FileLock
from lightning.pytorch.callbacks import ModelCheckpoint

from localvit.costs import count_macs, count_parameters
from localvit.data import DigitsData
from localvit.files import write_text
from localvit.training.callbacks import AtomicCheckpointIO, Epoch, History, ReseedEpochs
from localvit.training.classifier import Classifier
from localvit.training.config import RunConfig

CHECKPOINT, RESULT, CONFIG = "checkpoint.ckpt", "result.json", "config.json"


@dataclass(frozen=True)
class RunResult:
    """What a finished run gave.

    Attributes:
        parameters: of the model.
        macs: multiply-accumulates of one image.
        epochs: the metrics of each epoch; accuracies in percent.
    """

    parameters: int
    macs: int
    epochs: list[Epoch]

    @property
    def accuracy(self) -> float:
        """Of the held-out images in percent, after the last epoch: no epoch is chosen by looking at them."""
        return self.epochs[-1]["test_accuracy"]


def read_result(folder: Path) -> RunResult | None:
    """The result in a run folder, or None where the run has not finished."""
    path = folder / RESULT
    return RunResult(**json.loads(path.read_text())) if path.exists() else None


def run(config: RunConfig, folder: Path, *, on_epoch: Callable[[Epoch], None] | None = None) -> RunResult:
    """Train one model, from where it was interrupted if it was.

    Args:
        config: the run.
        folder: its own folder, made where there is none.
        on_epoch: told the metrics of each epoch as it ends.

    Returns:
        The result, which is in the folder too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Waits for a process that an interrupted study left behind, until the system has ended it.
    with FileLock(folder / ".lock"):
        for unfinished in folder.glob(".*.tmp"):  # files that a killed process was writing
            unfinished.unlink()
        result = read_result(folder)
        if result is None:
            write_text(folder / CONFIG, config.to_json())
            result = _train(config, folder, on_epoch)
            write_text(folder / RESULT, json.dumps(asdict(result), indent=1))
            (folder / CHECKPOINT).unlink(missing_ok=True)
        return result


def _train(config: RunConfig, folder: Path, on_epoch: Callable[[Epoch], None] | None) -> RunResult:
    training = config.training
    torch.set_num_threads(training.threads)
    lightning.seed_everything(config.seed, verbose=False)
    data = DigitsData(config.data, batch_size=training.batch_size, seed=config.seed)
    model = config.build_model(input_size=data.input_size, num_classes=data.num_classes)
    macs = count_macs(model, data.input_size)
    classifier = Classifier(model, training, num_classes=data.num_classes, steps_per_epoch=len(data.train_dataloader()))
    history = History(on_epoch)
    checkpoints = ModelCheckpoint(
        folder,
        Path(CHECKPOINT).stem,
        every_n_epochs=training.checkpoint_every_epochs,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    checkpoint = folder / CHECKPOINT
    trainer = lightning.Trainer(
        max_epochs=training.epochs,
        accelerator=training.accelerator,
        devices=1,
        precision=training.precision,  # type: ignore[arg-type]  # Lightning lists the names and checks them
        gradient_clip_val=training.gradient_clip or None,
        callbacks=[ReseedEpochs(config.seed), history, checkpoints],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint if checkpoint.exists() else None)
    return RunResult(count_parameters(model), macs, history.epochs)
