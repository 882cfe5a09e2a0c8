"""The images of a run for Lightning, with loaders that can resume in the middle of an epoch."""

import time
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from localvit.data.augmentation import training_pixels, training_transform
from localvit.data.batch_crops import BatchCrops
from localvit.data.config import AugmentationConfig, DataConfig, InputConfig
from localvit.data.dataset import Batch, ImageDataset, Sample, collate
from localvit.data.decoded import DecodedDataset, DecodedImages, ToPixels, decode
from localvit.data.order import EvaluationOrder, TrainingOrder
from localvit.data.source import DataError, ImageSource
from localvit.data.transforms import evaluation_pixels, evaluation_transform, normalize
from localvit.data.workers import default_workers, loader_options


class TrainingLoader(DataLoader[Batch]):
    """Batches of a :class:`TrainingOrder`. Lightning stores its state in checkpoints.

    Attributes:
        seconds_waited: time spent waiting for images so far.
    """

    def __init__(self, dataset: Dataset[Sample], order: TrainingOrder, *, batch_size: int, **options: Any) -> None:
        super().__init__(dataset, batch_size, sampler=order, collate_fn=collate, drop_last=True, **options)  # type: ignore[arg-type]
        self.order = order
        self.images_a_batch = batch_size
        self.batches_done = 0
        self.seconds_waited = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator suffices
        self.batches_done = self.first_batch
        batches = super().__iter__()
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.seconds_waited += time.perf_counter() - start
            if batch is None:
                return
            self.batches_done += 1
            yield batch

    @property
    def first_batch(self) -> int:
        """The number of batches of this epoch that an interrupted run had completed."""
        return self.order.skipped // self.images_a_batch

    def state_dict(self) -> dict[str, int]:
        """The position after the last batch: epoch, and batches done in it."""
        if self.batches_done == len(self):
            return {"epoch": self.order.epoch + 1, "batches": 0}
        return {"epoch": self.order.epoch, "batches": self.batches_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after that batch."""
        self.order.resume(state["epoch"], state["batches"] * self.images_a_batch)


class ImageData(lightning.LightningDataModule):
    """The images of a run, or of an evaluation, which has no training images.

    Args:
        val: the images to evaluate on.
        data: says what to do with broken images.
        shown: how the model sees an image.
        batch_size: images per step and process.
        workers: loader processes per process. Defaults to what the cores allow.
        train: the training images.
        augmentation: augmentation in training.
        seed: seed of order and augmentation.

    Raises:
        DataError: if the training images do not fill a batch in every process.
    """

    def __init__(
        self,
        val: ImageSource,
        data: DataConfig,
        shown: InputConfig,
        *,
        batch_size: int,
        workers: int | None = None,
        train: ImageSource | None = None,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.val, self.train = val, train
        self._decoded: dict[str, DecodedImages | None] = {}
        self.data, self.shown, self.augmentation = data, shown, augmentation or AugmentationConfig()
        self.batch_size, self.workers, self.seed = batch_size, workers, seed

    def batches_per_epoch(self) -> int:
        """The number of training batches of this process per epoch."""
        return len(self._order()) // self.batch_size

    def train_dataloader(self) -> TrainingLoader:
        """Batches of pixels (0 to 255). An epoch drops its last, incomplete batch."""
        assert self.train is not None
        order = self._order()
        if len(order) < self.batch_size:
            raise DataError(
                f"batch_size is {self.batch_size}, but each of {order.world_size} process(es) has only {len(order)} "
                "training images; make it smaller"
            )
        dataset, workers = self._training_dataset()
        return TrainingLoader(dataset, order, batch_size=self.batch_size, **loader_options(workers))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of normalized images to evaluate on, every image in one process."""
        rank, world_size = self._processes()
        empty_CHW = torch.zeros(self.shown.channels, *self.shown.image_size)
        # A single evaluation does not pay for decoding all images before the first batch.
        images = None if self.train is None else self._decode("val", self.val, evaluation_pixels(self.shown))
        workers = self._workers() if images is None else 0
        dataset: Dataset[Sample] = (
            ImageDataset(self.val, evaluation_transform(self.shown), empty_CHW=empty_CHW)
            if images is None
            else DecodedDataset(images, self._normalize, empty_CHW=empty_CHW)
        )
        return DataLoader[Batch](
            dataset,  # type: ignore[arg-type]  # collation turns its samples into batches
            self.batch_size if self.train is None else 2 * self.batch_size,  # there are no gradients to store
            collate_fn=collate,
            sampler=EvaluationOrder(len(self.val.labels_M), rank=rank, world_size=world_size),
            **loader_options(workers),
        )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Stop at an unreadable image if the settings say so, or if nothing could replace it."""
        if batch.broken and self.data.on_broken == "stop":
            raise DataError(f"{batch.broken[0]}. Repair or remove it, or skip such images with --data.on_broken skip")
        if self.trainer is not None and self.trainer.training and not batch.counted_B.all():
            raise DataError(
                f"{len(batch.broken)} images cannot be read, most recently {batch.broken[-1]}; check the data"
            )
        return batch

    def _training_dataset(self) -> tuple[Dataset[Sample], int]:
        """The training images and the number of processes that load them; none if they are cropped in batches."""
        assert self.train is not None
        shown, augmentation, workers = self.shown, self.augmentation, self._workers()
        empty_CHW = torch.zeros(shown.channels, *shown.image_size, dtype=torch.uint8)
        by_batch = not (augmentation.policy or augmentation.color_jitter)
        images = None
        # Loader processes that augment image by image also decode, rather than share or copy all pixels.
        if by_batch or not workers:
            to_pixels = training_pixels(shown, augmentation)
            images = self._decode("train", self.train, to_pixels, only_small=workers > 0)
        if images is not None and images.are_small and by_batch:
            return DecodedDataset(images, BatchCrops(shown, augmentation), empty_CHW=empty_CHW), 0
        source = self.train if images is None else images
        return ImageDataset(source, training_transform(shown, augmentation), empty_CHW=empty_CHW), workers

    def _normalize(self, pixels_BCHW: Tensor, seeds_B: NDArray[np.int64]) -> Tensor:
        return normalize(pixels_BCHW, self.shown)

    def _decode(
        self, part: str, source: ImageSource, to_pixels: ToPixels, *, only_small: bool = False
    ) -> DecodedImages | None:
        """The images of a part in memory, decoded at the first call."""
        if part not in self._decoded:
            self._decoded[part] = decode(
                source, to_pixels, memory_gib=self.data.memory_gib, workers=self._workers(), only_small=only_small
            )
        return self._decoded[part]

    def _order(self) -> TrainingOrder:
        assert self.train is not None
        rank, world_size = self._processes()
        num_images, repeats = len(self.train.labels_M), self.augmentation.repeats
        return TrainingOrder(num_images, seed=self.seed, repeats=repeats, rank=rank, world_size=world_size)

    def _processes(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _workers(self) -> int:
        return default_workers(self._processes()[1]) if self.workers is None else self.workers
