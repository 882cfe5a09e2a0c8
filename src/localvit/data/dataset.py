"""Images as a model wants them, and batches of them."""

from collections.abc import Callable, Sequence
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
    """One image: see :class:`Batch`."""

    image_CHW: Tensor
    label: int
    place: int
    counted: bool
    broken: tuple[str, ...]


class Batch(NamedTuple):
    """Images of one step.

    Attributes:
        images_BCHW: as the transform gives them.
        labels_B: their classes.
        indices_B: their place in the source.
        counted_B: whether each counts; one that fills up a batch, or that could not be read, does not.
        broken: names of images that could not be read, and why.
    """

    images_BCHW: Tensor
    labels_B: Tensor
    indices_B: Tensor
    counted_B: Tensor
    broken: list[str]


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch."""
    return Batch(
        torch.stack([sample.image_CHW for sample in samples]),
        torch.tensor([sample.label for sample in samples]),
        torch.tensor([sample.place for sample in samples]),
        torch.tensor([sample.counted for sample in samples]),
        [name for sample in samples for name in sample.broken],
    )


class ImageDataset(Dataset[Sample]):
    """Images of a source, transformed.

    An image that cannot be read is listed. Where there is a seed (training), the next that can be read takes its place,
    of the next hundred; otherwise it does not count. No error is raised here, since processes that load images cannot
    hand one on as it is: :class:`ImageData` does.

    Args:
        source: the images.
        transform: an image to a tensor (C, H, W).
        empty_CHW: what stands for an image that is not counted.
    """

    def __init__(self, source: ImageSource, transform: Callable[[Image.Image], Tensor], *, empty_CHW: Tensor) -> None:
        self.source = source
        self.transform = transform
        self.empty_CHW = empty_CHW

    def __len__(self) -> int:
        return len(self.source.labels_M)

    def __getitem__(self, draw: Draw) -> Sample:
        broken: list[str] = []
        tries = 0 if not draw.counted else 1 if draw.seed is None else min(len(self), _MOST_BROKEN_IN_A_ROW)
        for step in range(tries):
            place = (draw.place + step) % len(self)
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
