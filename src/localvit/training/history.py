"""The metrics and the timing of a run, epoch by epoch."""

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


class Clock:
    """Times the training steps of an epoch, from the moment it is created.

    Attributes:
        start: when it was created, by ``time.perf_counter``.
    """

    def __init__(self, trainer: lightning.Trainer) -> None:
        loader = trainer.train_dataloader
        assert isinstance(loader, TrainingLoader)
        self.loader, self.world_size = loader, trainer.world_size
        self.start, self._waited = time.perf_counter(), loader.seconds_waited

    def read(self, batches: int) -> Epoch:
        """Seconds so far, images per second, and the share of the time spent waiting for images.

        Args:
            batches: of the epoch that are done, including those of an interrupted run.
        """
        seconds = time.perf_counter() - self.start
        images = (batches - self.loader.first_batch) * self.loader.images_a_batch * self.world_size
        return {
            "seconds": seconds,
            "images_per_second": images / seconds,
            "waited_for_data": (self.loader.seconds_waited - self._waited) / seconds,
        }


class History(Callback):
    """Records the metrics of every epoch, in checkpoints too, and writes them as CSV.

    Attributes:
        epochs: metrics, which follow from the configuration.
        timing: seconds, images per second, and share of the time spent waiting for images.

    Args:
        table: the CSV file, rewritten after each epoch.
    """

    def __init__(self, table: Path) -> None:
        self.table = table
        self.epochs: list[Epoch] = []
        self.timing: list[Epoch] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock. A run that resumes within an epoch gets no call of ``on_train_epoch_start``."""
        self._clock = Clock(trainer)

    on_train_epoch_start = on_train_start

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock after the last step; validation does not count as training."""
        if batch_idx + 1 == trainer.num_training_batches:
            self._timing = self._clock.read(batch_idx + 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Record the epoch; Lightning has validated by now. Callbacks that need the metrics come after this one."""
        assert isinstance(pl_module, Classifier)
        pl_module.finish_epoch()
        self.epochs.append({"epoch": trainer.current_epoch + 1, **pl_module.epoch_metrics})
        self.timing.append({"epoch": trainer.current_epoch + 1, **self._timing})
        if trainer.is_global_zero:
            frame = pd.DataFrame([epoch | timing for epoch, timing in zip(self.epochs, self.timing, strict=True)])
            write_text(self.table, frame.to_csv(index=False))

    def state_dict(self) -> dict[str, Any]:
        """The state for Lightning's checkpoint."""
        return {"epochs": self.epochs, "timing": self.timing}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from Lightning's checkpoint."""
        self.epochs, self.timing = state_dict["epochs"], state_dict["timing"]
