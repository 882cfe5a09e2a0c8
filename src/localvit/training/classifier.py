"""The training step of image classification, for Lightning's loop."""

from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from localvit.training.config import TrainingConfig


class Classifier(lightning.LightningModule):
    """A model that learns to classify images.

    Logs ``train_loss``, ``test_loss`` and ``test_accuracy`` (percent) each epoch.

    Args:
        model: images (B, C, H, W) to logits (B, num_classes).
        config: the recipe.
        num_classes: number of classes.
        steps_per_epoch: optimizer steps an epoch, which the schedule counts in.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, *, num_classes: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.train_loss = LabelSmoothingCrossEntropy(smoothing=config.label_smoothing)
        self.test_loss = nn.CrossEntropyLoss()
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Smoothed cross-entropy of a batch of images (B, C, H, W) and labels (B,)."""
        images_BCHW, labels_B = batch
        loss: Tensor = self.train_loss(self.model(images_BCHW), labels_B)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels_B))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Cross-entropy and accuracy of held-out images."""
        images_BCHW, labels_B = batch
        logits_BK = self.model(images_BCHW)
        self.test_accuracy(logits_BK, labels_B)
        self.log("test_loss", self.test_loss(logits_BK, labels_B), on_epoch=True, batch_size=len(labels_B))
        self.log("test_accuracy", self.test_accuracy, on_epoch=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Timm's optimizer, with weight decay where the recipe has it, and its cosine schedule counted in steps."""
        config = self.config
        optimizer = create_optimizer_v2(
            self.model, opt=config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched="cosine",
            num_epochs=config.epochs,
            warmup_epochs=config.warmup_epochs,
            warmup_lr=config.warmup_learning_rate,
            min_lr=config.min_learning_rate,
            step_on_epochs=False,
            updates_per_epoch=self.steps_per_epoch,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Timm's schedulers are functions of the number of steps taken."""
        assert isinstance(scheduler, Scheduler)
        scheduler.step_update(num_updates=self.global_step)
