"""Images transformed for a model, and batches of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from localvit.data.order import Draw
from localvit.data.source import BrokenImageError, ImageSource
from localvit.system.randomness import seed_cpu

_MOST_BROKEN_IN_A_ROW = 100


class Sample(NamedTuple):
    """One image of a :class:`Batch`."""

    image_CHW: Tensor
    label: int
    place: int
    counted: bool
    broken: tuple[str, ...]


class Batch(NamedTuple):
    """The images of one step.

    Attributes:
        images_BCHW: the transformed images.
        labels_B: class of each image.
        indices_B: index of each image in the source.
        counted_B: whether each image counts; padding and unreadable images do not.
        broken: names of unreadable images, with the reason.
    """

    images_BCHW: Tensor
    labels_B: Tensor
    indices_B: Tensor
    counted_B: Tensor
    broken: list[str]


def collate(samples: Sequence[Sample] | Batch) -> Batch:
    """Combine samples into a batch; datasets that fetch whole batches are done already."""
    if isinstance(samples, Batch):
        return samples
    return Batch(
        torch.stack([sample.image_CHW for sample in samples]),
        torch.tensor([sample.label for sample in samples]),
        torch.tensor([sample.place for sample in samples]),
        torch.tensor([sample.counted for sample in samples]),
        [name for sample in samples for name in sample.broken],
    )


def indices_to_try(draw: Draw, num_images: int) -> Iterator[int]:
    """The images for a draw, until one is readable: in training, a hundred from its own on; in evaluation, only it."""
    tries = 0 if not draw.counted else 1 if draw.seed is None else min(num_images, _MOST_BROKEN_IN_A_ROW)
    return ((draw.place + step) % num_images for step in range(tries))


class ImageDataset(Dataset[Sample]):
    """The images of a source, transformed.

    Unreadable images are listed. In training (a draw with a seed), the next readable one among the following hundred
    replaces them; in evaluation, they do not count. Errors are raised by :class:`ImageData` instead of here, because
    loader processes cannot pass them on unchanged.

    Args:
        source: the images.
        transform: turns an image into a tensor (C, H, W).
        empty_CHW: placeholder for an image that does not count.
    """

    def __init__(self, source: ImageSource, transform: Callable[[Image.Image], Tensor], *, empty_CHW: Tensor) -> None:
        self.source = source
        self.transform = transform
        self.empty_CHW = empty_CHW

    def __len__(self) -> int:
        return len(self.source.labels_M)

    def __getitem__(self, draw: Draw) -> Sample:
        broken: list[str] = []
        for place in indices_to_try(draw, len(self)):
            try:
                image = self.source.read(place)
            except BrokenImageError as error:
                broken.append(str(error))
                continue
            if draw.seed is not None:
                seed_cpu(draw.seed)
            return Sample(self.transform(image), self._label(place), place, counted=True, broken=tuple(broken))
        return Sample(self.empty_CHW, self._label(draw.place), draw.place, counted=False, broken=tuple(broken))

    def _label(self, place: int) -> int:
        return int(self.source.labels_M[place])
