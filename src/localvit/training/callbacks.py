"""What a run does beside its steps: reseeding, remembering its curves, checkpoints that survive a crash."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from localvit.files import replacing

Epoch = dict[str, float]


class ReseedEpochs(Callback):
    """Makes the randomness of an epoch follow from seed and epoch, so that a resumed run repeats none of its past.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Seed Python, NumPy and PyTorch."""
        derived = np.random.SeedSequence([self.seed, trainer.current_epoch]).generate_state(1)[0]
        lightning.seed_everything(int(derived), verbose=False)


class History(Callback):
    """Keeps the metrics of every epoch, in the checkpoint too.

    Args:
        on_epoch: called with the metrics of each epoch when it ends.
    """

    def __init__(self, on_epoch: Callable[[Epoch], None] | None = None) -> None:
        self.epochs: list[Epoch] = []
        self.on_epoch = on_epoch

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Lightning has validated by now, so the metrics of both parts are there."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics["test_accuracy"] *= 100
        self.epochs.append({"epoch": trainer.current_epoch + 1, **metrics})
        if self.on_epoch is not None:
            self.on_epoch(self.epochs[-1])

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint."""
        self.epochs = state_dict["epochs"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads none that could run code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Put ``checkpoint`` in place of ``path`` once all of it is on the disk."""
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Tensors and plain containers; another content raises ``pickle.UnpicklingError``."""
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return checkpoint
