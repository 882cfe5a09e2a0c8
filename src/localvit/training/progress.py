"""Progress of training and evaluation on the terminal."""

import time
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from localvit.system.progress import progress_bar
from localvit.training.classifier import Classifier
from localvit.training.history import Clock

_SECONDS_BETWEEN_UPDATES = 0.5
_SECONDS_BETWEEN_LINES = 60.0  # without a terminal to draw a bar in


class TerminalProgress(Callback):
    """A bar for the whole run, and a permanent line per epoch.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = progress_bar(console)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the bar when a run starts or resumes."""
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Classifier)
        train, val = pl_module.data.train, pl_module.data.val
        assert train is not None
        self.on_train_epoch_start(trainer, pl_module)
        self.printed = self.clock.start
        self._print(
            f"{len(train.labels_M):,} training images, {len(val.labels_M):,} held out; "
            f"{trainer.world_size} process(es), {_batches(trainer):,} steps per epoch"
        )
        self.task = self.progress.add_task("", total=(trainer.max_epochs or 0) * _batches(trainer), figures="")
        self.progress.start()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start timing an epoch."""
        self.clock = Clock(trainer)
        self.updated = self.clock.start

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar, at most twice per second."""
        now = time.perf_counter()
        if not trainer.is_global_zero or now - self.updated < _SECONDS_BETWEEN_UPDATES:
            return
        self.updated = now
        assert isinstance(pl_module, Classifier)
        timing, top1 = self.clock.read(batch_idx + 1), pl_module.epoch_metrics.get("val_top1")
        figures = [
            f"{timing['images_per_second']:,.0f} images/s",
            f"loss {float(outputs['loss']) * trainer.accumulate_grad_batches:.3f}",
            *([] if top1 is None else [f"top-1 {top1:.2f} %"]),
            f"data wait {100 * timing['waited_for_data']:.0f} %",
        ]
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        done = trainer.current_epoch * _batches(trainer) + batch_idx + 1
        self.progress.update(self.task, completed=done, description=epoch, figures=", ".join(figures))
        if not self.console.is_terminal and now - self.printed > _SECONDS_BETWEEN_LINES:
            self.printed = now
            self._print(f"{epoch}, step {batch_idx + 1:,}/{_batches(trainer):,}: {', '.join(figures)}")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the line of the epoch."""
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Classifier)
        metrics = pl_module.epoch_metrics
        formats = {
            "train_loss": "train loss {:.4f}",
            "val_loss": "val loss {:.4f}",
            "val_top1": "top-1 {:.2f} %",
            "ema_top1": "averaged weights {:.2f} %",
        }
        figures = [text.format(metrics[name]) for name, text in formats.items() if name in metrics]
        figures.append(f"{time.perf_counter() - self.clock.start:.1f} s")
        self.progress.update(self.task, completed=(trainer.current_epoch + 1) * _batches(trainer))
        self._print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {', '.join(figures)}")

    def _print(self, line: str) -> None:
        self.progress.console.print(line, highlight=False, soft_wrap=True)

    def on_train_end(self, *args: Any) -> None:
        """Restore the terminal."""
        self.progress.stop()

    def on_exception(self, *args: Any) -> None:
        """Restore the terminal."""
        self.progress.stop()


class EvaluationProgress(Callback):
    """A bar for the images of an evaluation.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self.progress = progress_bar(console, "images")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the bar."""
        if trainer.is_global_zero:
            loader: Any = trainer.val_dataloaders
            self.task = self.progress.add_task("evaluating", total=len(loader.sampler) * trainer.world_size)
            self.progress.start()

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Advance the bar."""
        if trainer.is_global_zero:
            self.progress.update(self.task, advance=len(batch.labels_B) * trainer.world_size)

    def on_validation_end(self, *args: Any) -> None:
        """Restore the terminal."""
        self.progress.stop()

    def on_exception(self, *args: Any) -> None:
        """Restore the terminal."""
        self.progress.stop()


def _batches(trainer: lightning.Trainer) -> int:
    return int(trainer.num_training_batches)
