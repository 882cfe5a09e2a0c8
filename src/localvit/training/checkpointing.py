"""Checkpoints that survive a crash, and stopping when a signal asks for it."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from localvit.system.errors import Interrupted, LocalViTError
from localvit.system.files import replacing
from localvit.training.classifier import Classifier
from localvit.training.history import Epoch, History
from localvit.weights.model_file import ModelDescription, save_model

# Processes agree on stopping and saving so often; agreeing costs each of them a wait.
_STEPS_BETWEEN_AGREEMENTS = 10
# What an interruption may cost at the end of an epoch, so that short epochs are not spent on writing checkpoints.
_SECONDS_WORTH_SAVING = 10.0


class CheckpointError(LocalViTError):
    """A checkpoint cannot be written or read."""


class SaveState(Callback):
    """Saves the state of a run every few minutes, before an epoch ends, after it, and when a signal asks to stop.

    A run can go on after any step but the last of an epoch, since Lightning would take the validation that follows for
    done. So the state is saved one step earlier too, and a run that is stopped during validation repeats that step.

    Args:
        path: of the checkpoint, which is replaced whole.
        minutes: between checkpoints in an epoch.
        on_epoch: called with the metrics of each epoch when they are safe.
        history: has the metrics.
    """

    def __init__(
        self, path: Path, *, minutes: float, history: History, on_epoch: Callable[[Epoch], None] | None = None
    ) -> None:
        self.path, self.seconds = path, 60 * minutes
        self.history, self.on_epoch = history, on_epoch
        self.signal_number: int | None = None
        self.handlers: dict[int, Any] = {}
        self.last_saved = time.monotonic()

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take over the signals that ask to stop."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.handlers[number] = signal.signal(number, self._stop)

    def give_signals_back(self) -> None:
        """To whom they were before the run; Lightning would give them back to this callback."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers.clear()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # Asked twice: now. A cluster may send SIGTERM to a process and to its group, which is asking once.
        if self.signal_number is not None and number == signal.SIGINT:
            raise Interrupted(number)
        self.signal_number = number

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time, and stop where it was asked for."""
        done, every = batch_idx + 1, trainer.accumulate_grad_batches
        batches = int(trainer.num_training_batches)
        if done % every and done < batches:
            return  # gradients that wait for others are not part of a checkpoint
        last_to_save = (batches - 1) // every * every
        if trainer.world_size > 1 and done // every % _STEPS_BETWEEN_AGREEMENTS and done != last_to_save:
            return
        stopping = self._agree(trainer, self.signal_number is not None)
        if done == batches:
            if stopping:
                self._interrupt()
            return
        due = self.seconds if done != last_to_save else min(self.seconds, _SECONDS_WORTH_SAVING)
        if self._agree(trainer, stopping or time.monotonic() - self.last_saved > due):
            self._save(trainer)
        if stopping:
            self._interrupt()

    def on_validation_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop without saving: the last checkpoint is one step old."""
        if self.signal_number is not None and trainer.world_size == 1:
            self._interrupt()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the finished epoch, then tell of it."""
        stopping = self._agree(trainer, self.signal_number is not None)
        due = min(self.seconds, _SECONDS_WORTH_SAVING)
        if self._agree(trainer, stopping or time.monotonic() - self.last_saved > due):
            self._save(trainer)
        if self.on_epoch is not None and trainer.is_global_zero:
            self.on_epoch(self.history.epochs[-1])
        if stopping:
            self._interrupt()

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self.last_saved = time.monotonic()

    def _interrupt(self) -> None:
        raise Interrupted(self.signal_number or signal.SIGTERM)

    @staticmethod
    def _agree(trainer: lightning.Trainer, wanted: bool) -> bool:
        """Whether any process wants it."""
        if trainer.world_size == 1:
            return wanted
        agreed: bool = trainer.strategy.reduce_boolean_decision(wanted, all=False)
        return agreed


class SaveBest(Callback):
    """Keeps the weights of the best epoch by top-1 on the images held out: the model's own or their average.

    Args:
        path: of the file.
        description: what else the file says.
    """

    def __init__(self, path: Path, description: ModelDescription) -> None:
        self.path, self.description = path, description
        self.best: dict[str, Any] = {}

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare the epoch's weights with the best so far."""
        assert isinstance(pl_module, Classifier)
        for name, model in pl_module.weights().items():
            top1 = pl_module.epoch_metrics["val_top1" if name == "model" else "ema_top1"]
            if not self.best or top1 > self.best["top1"]:
                self.best = {"epoch": trainer.current_epoch + 1, "weights": name, "top1": top1}
                if trainer.is_global_zero:
                    save_model(model, self.description, self.path)

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint."""
        return self.best

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint."""
        self.best = state_dict


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads none that could run code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Put ``checkpoint`` in place of ``path`` once all of it is on the disk."""
        try:
            with replacing(Path(path)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's own writer raises the latter on a full disk
            raise CheckpointError(
                f"the checkpoint {path} cannot be written: {error}. The one before it is kept; make room, then the "
                "same command goes on from it"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Tensors and plain containers; a file with other content, or a damaged one, raises ``CheckpointError``."""
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{path} is damaged, or holds more than tensors and plain containers, which could run code: {error}. "
                "Remove it to start the run anew, or choose another --output"
            ) from error
        return checkpoint
