"""Some images of a source, as a model sees them.

Shape suffixes: B images of a batch, C channels, H x W pixels, M images of the source, S images shown.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from localvit.data.config import DataConfig, InputConfig
from localvit.data.images import decode_image
from localvit.data.module import ImageData
from localvit.data.source import DataError, ImageSource
from localvit.data.sources import Part
from localvit.evaluation.evaluate import as_the_model_names_them
from localvit.evaluation.predict import images_at
from localvit.system.errors import require
from localvit.system.files import readable

UNLABELED = "unlabeled"


class UnlabeledImages:
    """All images at a path, without classes: an :class:`~localvit.data.source.ImageSource`.

    Args:
        path: an image, or a folder of images.
        channels: 3 for RGB, 1 for grayscale.

    Raises:
        DataError: if there is no image, or a folder cannot be read.
    """

    def __init__(self, path: Path, *, channels: int) -> None:
        entries = list(images_at(path))
        for entry in entries:
            if entry.error is not None or not entry.path.exists():
                reason = entry.error or "it does not exist"
                raise DataError(f"{entry.path}: {reason}. Give an image or a folder of images with --images")
        self._paths = [entry.path for entry in entries]
        self._channels = channels
        self.class_names: tuple[str, ...] = (UNLABELED,)
        self.labels_M: NDArray[np.int64] = np.zeros(len(entries), dtype=np.int64)

    def read(self, index: int) -> Image.Image:
        """The image, decoded; BrokenImageError if it cannot be."""
        return decode_image(self._paths[index], self.name(index), channels=self._channels)

    def name(self, index: int) -> str:
        """The path of the image."""
        return readable(self._paths[index])


class ShownImages:
    """Batches of images as one model sees them, which can be iterated over more than once.

    Args:
        source: the images; ``count`` of them are used, evenly spaced, because sources are often sorted by class.
        data: says what to do with broken images, and how much memory decoded images may take.
        shown: how the model sees an image.
        class_names: classes of the model; None if they are not known.
        count: most images to use.
        batch_size: images per batch.
    """

    def __init__(
        self,
        source: ImageSource,
        data: DataConfig,
        shown: InputConfig,
        class_names: tuple[str, ...] | None = None,
        *,
        count: int,
        batch_size: int = 32,
    ) -> None:
        require("count", count, at_least=1)
        self._data, self._shown, self._batch_size = data, shown, batch_size
        self._source, self.labels_known = _labeled(source, class_names)
        self.available = len(source.labels_M)
        self.count = min(count, self.available)
        self.on_batch: Callable[[int], None] | None = None
        self._kept: list[tuple[Tensor, Tensor]] | None = None

    def first(self, count: int, batch_size: int) -> "Selection":
        """At most ``count`` of these images, evenly spaced, in batches of their own."""
        return Selection(self, min(count, self.count), batch_size)

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of images (B, C, H, W) and their labels (B,). They stay in memory if they fit."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[tuple[Tensor, Tensor]] | None = [] if self._fits() else None
        places_S = np.linspace(0, self.available - 1, self.count).round().astype(np.int64)
        module = ImageData(
            Part(self._source, places_S), self._data, self._shown, batch_size=self._batch_size, workers=0
        )
        for batch in module.val_dataloader():
            checked = module.on_before_batch_transfer(batch, 0)
            pair = (checked.images_BCHW[checked.counted_B], checked.labels_B[checked.counted_B])
            if kept is not None:
                kept.append(pair)
            yield pair
        self._kept = kept

    def _fits(self) -> bool:
        values = self.count * self._shown.channels * self._shown.image_size[0] * self._shown.image_size[1]
        return 4 * values <= self._data.memory_gib * 2**30


class Selection:
    """Some of the images of :class:`ShownImages`: an iterable of batches.

    Args:
        images: the images.
        count: number of images, evenly spaced.
        batch_size: images per batch.
    """

    def __init__(self, images: ShownImages, count: int, batch_size: int) -> None:
        self._images, self.count, self._batch_size = images, count, batch_size
        self._chosen = set(np.linspace(0, images.count - 1, count).round().astype(int).tolist())

    def __iter__(self) -> Iterator[Tensor]:
        for images_BCHW, _ in self._batches():
            if self._images.on_batch is not None:
                self._images.on_batch(len(images_BCHW))
            yield images_BCHW

    def labels(self) -> Tensor | None:
        """The labels (S,) of the images; None if the classes are not those of the model."""
        return torch.cat([labels_B for _, labels_B in self._batches()]) if self._images.labels_known else None

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        waiting: list[tuple[Tensor, Tensor]] = []
        place = 0
        for images_BCHW, labels_B in self._images.pairs():
            for image_CHW, label in zip(images_BCHW, labels_B, strict=True):
                if place in self._chosen:
                    waiting.append((image_CHW, label))
                place += 1
                if len(waiting) == self._batch_size:
                    yield _stacked(waiting)
                    waiting = []
        if waiting:
            yield _stacked(waiting)


def _stacked(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*pairs, strict=True)
    return torch.stack(images), torch.stack(labels)


def _labeled(source: ImageSource, class_names: tuple[str, ...] | None) -> tuple[ImageSource, bool]:
    """The source with the classes of a model, and whether it has them."""
    if class_names is None or source.class_names == (UNLABELED,):
        return source, False
    try:
        return as_the_model_names_them(source, class_names), True
    except DataError:
        return source, False
