"""Evaluates a model on held-out images; each image counts once, however many processes share the work."""

import re
from dataclasses import dataclass

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from localvit.data import DataConfig, DataError, ImageSource
from localvit.data.module import ImageData
from localvit.data.sources import Part, open_val
from localvit.models.weights.model_file import ModelDescription
from localvit.training.config import HardwareConfig
from localvit.training.scoring import score
from localvit.training.trainer import processes


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        images: number of images.
        top1: top-1 accuracy in percent.
        top5: top-5 accuracy in percent.
        loss: mean cross-entropy.
        broken_images: names of images that could not be read; they do not count.
        confusion_KK: number of images of each true class (row) and predicted class (column).
        class_names: names of rows and columns.
    """

    images: int
    top1: float
    top5: float
    loss: float
    broken_images: tuple[str, ...]
    confusion_KK: NDArray[np.int64]
    class_names: tuple[str, ...]

    def per_class(self) -> pd.DataFrame:
        """Number of images and accuracy (percent) of each class; NaN for classes without images."""
        images_K = self.confusion_KK.sum(axis=1)
        right_K = self.confusion_KK.diagonal()
        accuracy_K = np.divide(100 * right_K, images_K, out=np.full(len(images_K), np.nan), where=images_K > 0)
        return pd.DataFrame({"class": self.class_names, "images": images_K, "right": right_K, "top1": accuracy_K})


def evaluate(
    model: nn.Module,
    description: ModelDescription,
    data: DataConfig,
    hardware: HardwareConfig,
    *,
    batch_size: int,
    callbacks: list[Callback] | None = None,
) -> Evaluation:
    """Evaluate a model on held-out images, in all processes that torchrun started.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        description: its classes and preprocessing.
        data: the images; their classes are matched to the model's by name.
        hardware: the hardware.
        batch_size: images per step and process.
        callbacks: Lightning callbacks, such as progress.

    Raises:
        DataError: for images that cannot be used, or classes that the model does not know.
    """
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
    source = open_val(data, channels=description.input.channels)
    images = as_the_model_names_them(source, description.class_names)
    if hardware.channels_last:
        model.to(memory_format=torch.channels_last)
    if hardware.compile:
        model.compile()
    trainer = lightning.Trainer(
        precision=hardware.precision,
        callbacks=callbacks,
        logger=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=True,
        **processes(hardware),
    )
    module = ImageData(images, data, description.input, batch_size=batch_size, workers=hardware.workers)
    scores = score(trainer, model, module, channels_last=hardware.channels_last)
    confusion_KK = multiclass_confusion_matrix(scores.logits_MK, scores.labels_M, len(description.class_names))
    return Evaluation(
        images=len(scores.labels_M),
        **scores.figures(),
        broken_images=scores.broken_images,
        confusion_KK=confusion_KK.numpy(),
        class_names=description.class_names,
    )


def as_the_model_names_them(source: ImageSource, class_names: tuple[str, ...]) -> ImageSource:
    """The images of ``source`` with the classes numbered as in a model; DataError for a class that it does not know."""
    if source.class_names == class_names:
        return source
    unknown = sorted(set(source.class_names) - set(class_names))
    if not unknown:
        number = {name: index for index, name in enumerate(class_names)}
        numbers_K = np.array([number[name] for name in source.class_names], dtype=np.int64)
        every_M = np.arange(len(source.labels_M))
        return Part(source, every_M, class_names=class_names, class_of_label_K=numbers_K)
    # Some files and data sets number their classes, or use ImageNet's ids. As many classes are then the same classes.
    if len(source.class_names) == len(class_names) and any(map(_no_names, (source.class_names, class_names))):
        return source
    raise DataError(
        f"the model does not know {len(unknown)} class(es) of the data: {', '.join(unknown[:10])}. "
        f"It knows {len(class_names)}: {', '.join(class_names[:10])}{', ...' if len(class_names) > 10 else ''}"
    )


def _no_names(class_names: tuple[str, ...]) -> bool:
    return all(re.fullmatch(r"\d+|n\d{8}", name) for name in class_names)
