"""Training and validation steps of image classification, for Lightning's loop."""

import math
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torchmetrics import MeanMetric

from localvit.data.augmentation import BatchAugmentation
from localvit.data.dataset import Batch
from localvit.data.module import ImageData
from localvit.system.randomness import seed_cpu
from localvit.training.config import RunConfig
from localvit.training.distillation import Teacher
from localvit.training.metrics import SUM_TYPE, ClassificationMetrics
from localvit.training.non_finite import NonFiniteLossError, layer_norms
from localvit.training.scoring import gathered

# PyTorch's optimizers that update all weights in one operation; a step of small models is several times faster.
_FUSED = ("adamw", "adam", "sgd", "momentum")


class Classifier(lightning.LightningModule):
    """A model that learns to classify images.

    All random numbers of a step follow from seed, epoch, step and process, so that a resumed run draws the same ones.

    Args:
        model: images (B, C, H, W) to logits (B, num_classes).
        config: the run.
        num_classes: number of classes K.
        teacher: the teacher to learn from, if any.

    Attributes:
        epoch_metrics: metrics of the last epoch: ``train_loss``; if it was evaluated, also ``val_loss``, ``val_top1``
            and ``val_top5`` (percent) on held-out images, and the same as ``ema_*`` for the averaged weights.
        broken_images: names of images that could not be read.
    """

    def __init__(
        self, model: nn.Module, config: RunConfig, *, num_classes: int, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        training = config.training
        self.averaged: ModelEmaV3 | None = None
        if training.ema_decay:
            self.averaged = ModelEmaV3(model, decay=training.ema_decay, use_warmup=training.ema_warmup)
            self.averaged.requires_grad_(False)
        self.augment = BatchAugmentation(
            config.input, config.augmentation, num_classes=num_classes, label_smoothing=training.label_smoothing
        )
        self.loss: nn.Module = (
            SoftTargetCrossEntropy()
            if config.augmentation.mixes
            else LabelSmoothingCrossEntropy(smoothing=training.label_smoothing)
        )
        self.teacher = teacher
        self.train_loss = MeanMetric().set_dtype(SUM_TYPE)
        self.val_metrics, self.ema_metrics = ClassificationMetrics(), ClassificationMetrics()
        self.validation: dict[str, float] = {}
        self.epoch_metrics: dict[str, float] = {}
        self.broken_images: set[str] = set()
        self.train()  # Lightning keeps the mode of each module

    def train(self, mode: bool = True) -> "Classifier":
        """Set training mode, except for frozen batch norms and the averaged weights."""
        super().train(mode)
        if self.config.training.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # their common base has no public name
                    module.eval()
        if self.averaged is not None:
            self.averaged.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss on a batch of pixels (B, C, H, W) and labels (B,)."""
        self._seed(batch_idx)
        images_BCHW, targets = self.augment(batch.images_BCHW, batch.labels_B)
        images_BCHW = self._in_memory_format(images_BCHW)
        logits_BK = self.model(images_BCHW)
        loss: Tensor = self.loss(logits_BK, targets)
        if self.teacher is not None:
            loss = self.teacher.mix(loss, logits_BK, images_BCHW)
        if not math.isfinite(loss.item()):
            raise NonFiniteLossError(
                self.current_epoch, batch_idx, batch.indices_B.tolist(), layer_norms(self.model, images_BCHW)
            )
        self.train_loss.update(loss.detach().to(SUM_TYPE), weight=len(batch.labels_B))
        if self.config.logging.enabled:
            self.log("step_loss", loss.detach())
        self.broken_images.update(batch.broken)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate the model, and its average, on a batch of held-out images."""
        images_BCHW = self._in_memory_format(batch.images_BCHW)
        self.val_metrics.update(self.model(images_BCHW), batch.labels_B, batch.counted_B)
        if self.averaged is not None:
            self.ema_metrics.update(self.averaged.module(images_BCHW), batch.labels_B, batch.counted_B)
        self.broken_images.update(batch.broken)

    def on_validation_epoch_end(self) -> None:
        """Compute the metrics on held-out images over all processes."""
        self.validation = {f"val_{name}": value for name, value in self.val_metrics.totals().items()}
        if self.averaged is not None:
            self.validation |= {f"ema_{name}": value for name, value in self.ema_metrics.totals().items()}

    def finish_epoch(self) -> None:
        """Compute the metrics of the epoch over all processes, once its training and validation are complete."""
        self.epoch_metrics = {"train_loss": float(self.train_loss.compute()), **self.validation}
        self.train_loss.reset()
        self.validation = {}
        if self.config.logging.enabled:
            self.log_dict(self.epoch_metrics, sync_dist=True)
        self.broken_images.update(gathered(self.trainer, self.broken_images))

    def weights(self) -> dict[str, nn.Module]:
        """The models that are evaluated, by name: ``model``, and ``average`` if there is one."""
        return {"model": self.model} | ({} if self.averaged is None else {"average": self.averaged.module})

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the average after each optimizer step."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update(self.model, step=self.global_step + 1 if self.config.training.ema_warmup else None)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Create timm's optimizer and its cosine schedule, which is stepped per optimizer step."""
        training = self.config.training
        # The scaler of float16 gradients does not go together with clipping in a fused step.
        fused = training.optimizer in _FUSED and self.config.hardware.precision != "16-mixed"
        optimizer = create_optimizer_v2(
            self.model,
            opt=training.optimizer,
            lr=self.learning_rate(),
            weight_decay=training.weight_decay,
            layer_decay=training.layer_decay,
            **({"fused": True} if fused else {}) | training.optimizer_arguments,
        )
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched="cosine",
            num_epochs=training.epochs,
            warmup_epochs=training.warmup_epochs,
            warmup_lr=training.warmup_learning_rate,
            min_lr=training.min_learning_rate,
            step_on_epochs=False,
            updates_per_epoch=math.ceil(self.data.batches_per_epoch() / training.accumulate),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients by their norm. Lightning would refuse fused optimizers in bfloat16, too."""
        if gradient_clip_val:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            nn.utils.clip_grad_norm_(weights, gradient_clip_val)

    @property
    def data(self) -> ImageData:
        """The images of the run."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        assert isinstance(data, ImageData)
        return data

    def learning_rate(self) -> float:
        """The peak learning rate, scaled to the images of an optimizer step over all processes."""
        training = self.config.training
        if training.learning_rate_images is None:
            return training.learning_rate
        images = training.batch_size * training.accumulate * self.trainer.world_size
        return training.learning_rate * images / training.learning_rate_images

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step timm's scheduler, which is a function of the number of optimizer steps."""
        assert isinstance(scheduler, Scheduler)
        scheduler.step_update(num_updates=self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the training loss so far, summed over all processes, because only one process writes the checkpoint."""
        sums_2 = torch.stack([torch.as_tensor(self.train_loss.metric_state[name]) for name in ("mean_value", "weight")])
        loss_sum, images = self.trainer.strategy.reduce(sums_2, reduce_op="sum").tolist()
        checkpoint["train_loss_so_far"] = (loss_sum, int(images))
        checkpoint["broken_images"] = sorted(self.broken_images)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the training loss so far in one process; the others start at zero."""
        if self.global_rank == 0:
            loss_sum, images = checkpoint["train_loss_so_far"]
            self.train_loss.mean_value = torch.tensor(loss_sum, dtype=SUM_TYPE, device=self.device)
            self.train_loss.weight = torch.tensor(images, dtype=SUM_TYPE, device=self.device)
        self.broken_images.update(checkpoint["broken_images"])

    def _seed(self, batch_idx: int) -> None:
        words = np.random.SeedSequence([self.config.seed, self.current_epoch, batch_idx, self.global_rank])
        seed = int(words.generate_state(1)[0])
        seed_cpu(seed)
        if self.device.type != "cpu":
            torch.manual_seed(seed)

    def _in_memory_format(self, images_BCHW: Tensor) -> Tensor:
        if self.config.hardware.channels_last:
            return images_BCHW.contiguous(memory_format=torch.channels_last)
        return images_BCHW
