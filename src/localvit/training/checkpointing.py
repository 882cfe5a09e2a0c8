"""Checkpoints that survive a crash, and runs that save their state when a signal stops them."""

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

from localvit.models.weights.checkpoints import require_unpacked
from localvit.models.weights.model_file import ModelDescription, save_model
from localvit.system.errors import Interrupted, LocalViTError
from localvit.system.files import replacing
from localvit.training.classifier import Classifier
from localvit.training.history import Epoch, History

# Processes agree on stopping and saving only this often, because they wait for each other to agree.
_STEPS_BETWEEN_AGREEMENTS = 10
# A checkpoint at the end of an epoch must be worth this much training, so that short epochs do not spend their time
# writing checkpoints.
_SECONDS_WORTH_SAVING = 10.0


class CheckpointError(LocalViTError):
    """A checkpoint cannot be written or read."""


class SaveState(Callback):
    """Saves the state of a run every few minutes, at the end of an epoch, and when a signal asks it to stop.

    A run cannot resume after the last step of an epoch, because Lightning would skip the validation that follows. The
    state is therefore also saved one step earlier, and a run that is stopped during validation repeats that step.

    Args:
        path: the checkpoint file, which is replaced atomically.
        minutes: time between checkpoints within an epoch.
        history: the metrics of the run.
        on_epoch: called with the metrics of each epoch once they are saved.
        before_saving: called before the first process saves; what it raises ends the run.

    Attributes:
        trained: whether this process has done a step, so that the state of an earlier one is restored.
    """

    def __init__(
        self,
        path: Path,
        *,
        minutes: float,
        history: History,
        on_epoch: Callable[[Epoch], None] | None = None,
        before_saving: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self.seconds = path, 60 * minutes
        self.history, self.on_epoch, self.before_saving = history, on_epoch, before_saving
        self.signal_number: int | None = None
        self.handlers: dict[int, Any] = {}
        self.last_saved = time.monotonic()
        self.trained = False

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take over the signals that ask to stop."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.handlers[number] = signal.signal(number, self._stop)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take them over from Lightning, which would exit with status 0 and without saving the state."""
        for number in self.handlers:
            signal.signal(number, self._stop)

    on_validation_start = on_train_start  # the scoring after training has not started training

    def give_signals_back(self) -> None:
        """Restore the handlers from before the run; Lightning would restore this callback's."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers.clear()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C stops at once. A second SIGTERM does not: a cluster may send one to the process and another
        # to its group.
        if self.signal_number is not None and number == signal.SIGINT:
            raise Interrupted(number)
        self.signal_number = number

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, and stop if a signal came."""
        done, every = batch_idx + 1, trainer.accumulate_grad_batches
        batches = int(trainer.num_training_batches)
        if done % every and done < batches:
            return  # checkpoints do not contain accumulated gradients
        self.trained = True
        last_to_save = (batches - 1) // every * every
        if trainer.world_size > 1 and done // every % _STEPS_BETWEEN_AGREEMENTS and done != last_to_save:
            return
        stopping = self._stopping(trainer)
        if done < batches:
            enough = self.seconds if done != last_to_save else min(self.seconds, _SECONDS_WORTH_SAVING)
            self._save_after(enough, trainer, stopping)
        if stopping:
            self._interrupt()

    def on_validation_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop without saving: during training the last checkpoint is one step old, and a final scoring repeats."""
        if self.signal_number is not None and trainer.world_size == 1:
            self._interrupt()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the finished epoch, then report it."""
        stopping = self._stopping(trainer)
        self._save_after(min(self.seconds, _SECONDS_WORTH_SAVING), trainer, stopping)
        if self.on_epoch is not None and trainer.is_global_zero:
            self.on_epoch(self.history.epochs[-1])
        if stopping:
            self._interrupt()

    def _stopping(self, trainer: lightning.Trainer) -> bool:
        return _any_process(trainer, self.signal_number is not None)

    def _save_after(self, seconds: float, trainer: lightning.Trainer, stopping: bool) -> None:
        """Save if the last checkpoint is older than ``seconds``, or if the run is stopping."""
        if _any_process(trainer, stopping or time.monotonic() - self.last_saved > seconds):
            if trainer.is_global_zero:
                self.before_saving()
            trainer.save_checkpoint(self.path, weights_only=False)
            self.last_saved = time.monotonic()

    def _interrupt(self) -> None:
        raise Interrupted(self.signal_number or signal.SIGTERM)


def _any_process(trainer: lightning.Trainer, wanted: bool) -> bool:
    agreed: bool = trainer.strategy.reduce_boolean_decision(wanted, all=False)
    return agreed


class SaveBest(Callback):
    """Saves the weights of the best epoch by top-1 on held-out images, whether the model's own or their average.

    Args:
        path: the file.
        description: the description of the model to store with the weights.
    """

    def __init__(self, path: Path, description: ModelDescription) -> None:
        self.path, self.description = path, description
        self.best: dict[str, Any] = {}

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare the weights of the epoch, if it was evaluated, with the best so far."""
        assert isinstance(pl_module, Classifier)
        for name, model in pl_module.weights().items():
            top1 = pl_module.epoch_metrics.get("val_top1" if name == "model" else "ema_top1")
            if top1 is not None and top1 > self.best.get("top1", -1.0):
                if trainer.is_global_zero:
                    save_model(model, self.description, self.path, verify=not self.best)
                self.best = {"epoch": trainer.current_epoch + 1, "weights": name, "top1": top1}

    def state_dict(self) -> dict[str, Any]:
        """The state for Lightning's checkpoint."""
        return self.best

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from Lightning's checkpoint."""
        self.best = state_dict


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and refuses to read any that could run code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Replace ``path`` once the whole checkpoint is on disk."""
        try:
            with replacing(Path(path)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's own writer raises the latter on a full disk
            raise CheckpointError(
                f"the checkpoint {path} cannot be written: {error}. The previous one is kept; free some space and run "
                "the same command again to resume from it"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load tensors and plain containers; a damaged file or other content raises ``CheckpointError``."""
        try:
            require_unpacked(Path(path))
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{path} is damaged, or contains more than tensors and plain containers, which could run code: "
                f"{error}. Remove it to restart the run, or choose another --output"
            ) from error
        return checkpoint
