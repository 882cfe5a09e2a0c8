"""What a run keeps of its course."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pandas as pd
from lightning.pytorch.callbacks import Callback

from localvit.data.module import TrainingLoader
from localvit.system.files import write_text
from localvit.training.classifier import Classifier

Epoch = dict[str, float]


class History(Callback):
    """Keeps the metrics of every epoch, in the checkpoint too, and writes them as CSV.

    Attributes:
        epochs: what follows from the configuration.
        timing: seconds, images a second, and the share of the time spent waiting for images.

    Args:
        table: the CSV file, which is written anew each epoch.
    """

    def __init__(self, table: Path) -> None:
        self.table = table
        self.epochs: list[Epoch] = []
        self.timing: list[Epoch] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock, also in the middle of an epoch, which Lightning does not announce as its start."""
        loader = trainer.train_dataloader
        assert isinstance(loader, TrainingLoader)
        self._start, self._waited = time.perf_counter(), loader.seconds_waited

    on_train_epoch_start = on_train_start

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop it: validation is no training."""
        loader = trainer.train_dataloader
        assert isinstance(loader, TrainingLoader)
        seconds = time.perf_counter() - self._start
        images = (len(loader) - loader.first_batch) * loader.images_a_batch * trainer.world_size
        self._timing = {
            "seconds": seconds,
            "images_per_second": images / seconds,
            "waited_for_data": (loader.seconds_waited - self._waited) / seconds,
        }

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Lightning has validated by now, so the metrics of both parts are there."""
        assert isinstance(pl_module, Classifier)
        self.epochs.append({"epoch": trainer.current_epoch + 1, **pl_module.epoch_metrics})
        self.timing.append({"epoch": trainer.current_epoch + 1, **self._timing})
        if trainer.is_global_zero:
            frame = pd.DataFrame([epoch | timing for epoch, timing in zip(self.epochs, self.timing, strict=True)])
            write_text(self.table, frame.to_csv(index=False))

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint."""
        return {"epochs": self.epochs, "timing": self.timing}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint."""
        self.epochs, self.timing = state_dict["epochs"], state_dict["timing"]
