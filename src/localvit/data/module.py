"""The images of a run for Lightning, with loaders that can resume in the middle of an epoch."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader

from localvit.data.augmentation import training_transform
from localvit.data.config import AugmentationConfig, DataConfig, InputConfig
from localvit.data.dataset import Batch, ImageDataset, collate
from localvit.data.order import EvaluationOrder, TrainingOrder
from localvit.data.source import DataError, ImageSource
from localvit.data.transforms import evaluation_transform
from localvit.system.machine import share_of_cores

_MOST_WORKERS = 8


class TrainingLoader(DataLoader[Batch]):
    """Batches of a :class:`TrainingOrder`. Lightning stores its state in checkpoints.

    Attributes:
        seconds_waited: time spent waiting for images so far.
    """

    def __init__(self, dataset: ImageDataset, order: TrainingOrder, *, batch_size: int, **options: Any) -> None:
        super().__init__(dataset, batch_size, sampler=order, drop_last=True, **options)  # type: ignore[arg-type]
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
        val: the held-out images.
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
        empty_CHW = torch.zeros(self.shown.channels, *self.shown.image_size, dtype=torch.uint8)
        transform = training_transform(self.shown, self.augmentation)
        dataset = ImageDataset(self.train, transform, empty_CHW=empty_CHW)
        return TrainingLoader(dataset, order, batch_size=self.batch_size, **self._options(order.world_size))

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Stop at an unreadable image if the settings say so, or if nothing could replace it."""
        if batch.broken and self.data.on_broken == "stop":
            raise DataError(f"{batch.broken[0]}. Repair or remove it, or skip such images with --data.on_broken skip")
        if self.trainer is not None and self.trainer.training and not batch.counted_B.all():
            raise DataError(
                f"{len(batch.broken)} images cannot be read, most recently {batch.broken[-1]}; check the data"
            )
        return batch

    def _order(self) -> TrainingOrder:
        assert self.train is not None
        rank, world_size = self._processes()
        num_images, repeats = len(self.train.labels_M), self.augmentation.repeats
        return TrainingOrder(num_images, seed=self.seed, repeats=repeats, rank=rank, world_size=world_size)

    def _processes(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of normalized images. Every held-out image is in one process."""
        rank, world_size = self._processes()
        empty_CHW = torch.zeros(self.shown.channels, *self.shown.image_size)
        dataset = ImageDataset(self.val, evaluation_transform(self.shown), empty_CHW=empty_CHW)
        order = EvaluationOrder(len(self.val.labels_M), rank=rank, world_size=world_size)
        return DataLoader[Batch](
            dataset,  # type: ignore[arg-type]  # collate turns its samples into batches
            self.batch_size if self.train is None else 2 * self.batch_size,  # there are no gradients to store
            sampler=order,
            **self._options(world_size),
        )

    def _options(self, world_size: int) -> dict[str, Any]:
        workers = default_workers(world_size) if self.workers is None else self.workers
        return {
            "collate_fn": collate,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _serve,
        }


def _serve(worker: int) -> None:
    """Ignore signals and, if training runs on the CPU, give its threads priority.

    A terminal sends Ctrl-C to all processes, and a cluster SIGTERM, but the training process needs images until it has
    written a checkpoint. The threads of a training step wait for each other, so a loader that competes with them costs
    more than its own time; it catches up whenever training waits for images.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if not torch.accelerator.is_available():
        os.nice(19)


def default_workers(world_size: int) -> int:
    """The number of loader processes for each training process on this machine."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return min(_MOST_WORKERS, share_of_cores(here))
