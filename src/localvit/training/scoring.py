"""The logits of a model for every image of a source, in its order, however many processes share the work.

Shape suffixes: M images, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import safetensors.torch
import torch
from torch import Tensor, nn

from localvit.data.dataset import Batch
from localvit.data.module import ImageData
from localvit.system.files import replacing
from localvit.training.metrics import classification_figures


@dataclass(frozen=True)
class Scores:
    """The answers of a model to the images of a source, in its order.

    Attributes:
        logits_MK: logits (float32); images that could not be read are missing.
        labels_M: true classes (int64).
        broken_images: names of images that could not be read.
    """

    logits_MK: Tensor
    labels_M: Tensor
    broken_images: tuple[str, ...]

    def figures(self) -> dict[str, float]:
        """Top-1 and top-5 accuracy in percent, and mean cross-entropy (``loss``)."""
        return {
            name: float(values_M.mean())
            for name, values_M in classification_figures(self.logits_MK, self.labels_M).items()
        }

    def save(self, path: Path) -> None:
        """Write ``logits_MK`` and ``labels_M`` as safetensors."""
        with replacing(path) as file:
            file.write(safetensors.torch.save({"logits_MK": self.logits_MK, "labels_M": self.labels_M}))


def score(trainer: lightning.Trainer, model: nn.Module, images: ImageData, *, channels_last: bool = False) -> Scores:
    """Run a model on the held-out images of ``images``.

    Args:
        trainer: says where and in which precision; its callbacks see a validation.
        model: images (B, C, H, W) to logits (B, K).
        images: the images.
        channels_last: whether the model takes images channels-last.
    """
    scorer = _Scorer(model, torch.channels_last if channels_last else torch.contiguous_format)
    trainer.validate(scorer, datamodule=images, verbose=False)
    return scorer.scores


class _Scorer(lightning.LightningModule):
    """Collects the logits of a validation from all processes."""

    scores: Scores

    def __init__(self, model: nn.Module, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.model, self.memory_format = model, memory_format
        self.batches: list[tuple[Tensor, ...]] = []
        self.broken_images: list[str] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits of a batch."""
        logits_BK = self.model(batch.images_BCHW.contiguous(memory_format=self.memory_format))
        kept = (logits_BK.float(), batch.labels_B, batch.indices_B, batch.counted_B)
        self.batches.append(tuple(tensor.cpu() for tensor in kept))
        self.broken_images += batch.broken

    def on_validation_epoch_end(self) -> None:
        """Put the images of all processes back in order."""
        logits_MK, labels_M, indices_M, counted_M = (
            self._everywhere(torch.cat(tensors)) for tensors in zip(*self.batches, strict=True)
        )
        order_M = indices_M[counted_M].argsort()
        self.scores = Scores(
            logits_MK[counted_M][order_M],
            labels_M[counted_M][order_M],
            tuple(sorted(gathered(self.trainer, self.broken_images))),
        )

    def _everywhere(self, tensor_N: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return tensor_N
        gathered_RN: Tensor = self.trainer.strategy.all_gather(tensor_N.to(self.device))
        return gathered_RN.flatten(0, 1).cpu()


def gathered(trainer: lightning.Trainer, names: Any) -> list[str]:
    """The names that all processes have collected."""
    everywhere: list[Any] = [names]
    if trainer.world_size > 1:
        everywhere = [None] * trainer.world_size
        torch.distributed.all_gather_object(everywhere, names)
    return [name for names in everywhere for name in names]
