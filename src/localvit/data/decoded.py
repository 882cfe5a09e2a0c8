"""The images of a source, decoded once and kept in memory.

Shape suffixes: M images, B images of a batch, C channels, H height, W width.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from localvit.data.dataset import Batch, Sample, indices_to_try
from localvit.data.order import Draw
from localvit.data.source import BrokenImageError, ImageSource
from localvit.data.workers import loader_options

# Larger images take longer to crop here, in the training process, than loader processes need to decode and crop them.
SMALL_PIXELS = 128 * 128
_AT_ONCE = 256

ToPixels = Callable[[Image.Image], Tensor]


class DecodedImages:
    """Decoded images of one size: an :class:`~localvit.data.source.ImageSource`.

    Args:
        source: their source.
        pixels_MCHW: their pixels, uint8.
        broken: reasons why images could not be decoded, by index.
    """

    def __init__(self, source: ImageSource, pixels_MCHW: Tensor, broken: dict[int, BrokenImageError]) -> None:
        self.source, self.pixels_MCHW, self.broken = source, pixels_MCHW, broken
        self.class_names, self.labels_M = source.class_names, source.labels_M

    def __str__(self) -> str:
        return str(self.source)

    def read(self, index: int) -> Image.Image:
        if index in self.broken:
            raise BrokenImageError(self.broken[index].name, self.broken[index].reason)
        pixels_HWC = self.pixels_MCHW[index].permute(1, 2, 0).numpy()
        return Image.fromarray(pixels_HWC if pixels_HWC.shape[2] == 3 else pixels_HWC[..., 0])

    def name(self, index: int) -> str:
        return self.source.name(index)

    @property
    def are_small(self) -> bool:
        """Whether a batch is cropped in the training process faster than image by image in loader processes."""
        _, _, height, width = self.pixels_MCHW.shape
        return height * width <= SMALL_PIXELS


def decode(
    source: ImageSource, to_pixels: ToPixels, *, memory_gib: float, workers: int, only_small: bool = False
) -> DecodedImages | None:
    """All images of a source as pixels; None if they differ in size or do not fit into memory.

    Args:
        source: the images.
        to_pixels: turns an image into pixels (C, H, W), uint8.
        memory_gib: memory that the pixels may take, in GiB.
        workers: number of processes that decode.
        only_small: whether to decode only images that are cropped faster in batches.
    """
    if not memory_gib:
        return None
    count = len(source.labels_M)
    found = (_read(source, index, to_pixels) for index in {0, count // 2, count - 1})
    samples = [pixels for pixels in found if isinstance(pixels, Tensor)]
    if not samples or any(pixels.shape != samples[0].shape for pixels in samples):
        return None
    _, height, width = samples[0].shape
    small, needed_gib = height * width <= SMALL_PIXELS, count * samples[0].numel() / 2**30
    if only_small and not small:
        return None
    if needed_gib > memory_gib:
        logging.getLogger(__name__).log(
            logging.WARNING if small else logging.DEBUG,  # photos rarely fit, and gain little
            "%s needs %.1f GiB in memory, more than data.memory_gib = %g; its images are decoded again in every epoch",
            source,
            needed_gib,
            memory_gib,
        )
        return None
    images = _Undecoded(source, to_pixels, samples[0].shape)
    pixels_MCHW = torch.zeros(count, *images.shape, dtype=torch.uint8)
    broken: dict[int, BrokenImageError] = {}
    start = 0
    for chunk in DataLoader(images, _AT_ONCE, collate_fn=_as_it_is, **loader_options(workers)):
        if chunk is None:
            return None
        pixels_BCHW, broken_here = chunk
        pixels_MCHW[start : start + len(pixels_BCHW)] = pixels_BCHW
        broken |= broken_here
        start += len(pixels_BCHW)
    return DecodedImages(source, pixels_MCHW, broken)


def _read(source: ImageSource, index: int, to_pixels: ToPixels) -> Tensor | BrokenImageError:
    try:
        return to_pixels(source.read(index))
    except BrokenImageError as error:
        return BrokenImageError(error.name, error.reason)  # without its traceback, which holds the image


_Chunk = tuple[Tensor, dict[int, BrokenImageError]] | None


def _as_it_is(chunk: Any) -> Any:
    return chunk


class _Undecoded(Dataset[Tensor]):
    """Decodes many images at once, because every tensor that a loader process sends needs an open file."""

    def __init__(self, source: ImageSource, to_pixels: ToPixels, shape: torch.Size) -> None:
        self.source, self.to_pixels, self.shape = source, to_pixels, shape

    def __len__(self) -> int:
        return len(self.source.labels_M)

    def __getitems__(self, indices: Sequence[int]) -> _Chunk:
        """Pixels (B, C, H, W), and the errors of broken images by index; None if an image has another shape."""
        pixels_BCHW = torch.zeros(len(indices), *self.shape, dtype=torch.uint8)
        broken: dict[int, BrokenImageError] = {}
        for place, index in enumerate(indices):
            found = _read(self.source, index, self.to_pixels)
            if isinstance(found, BrokenImageError):
                broken[index] = found
            elif found.shape != self.shape:
                return None
            else:
                pixels_BCHW[place] = found
        return pixels_BCHW, broken


class DecodedDataset(Dataset[Sample]):
    """Batches of decoded images, transformed at once; what :class:`ImageDataset` gives after collation.

    Args:
        images: the images.
        transform: turns pixels (B, C, H, W) and the seeds of their draws (B,) into images. In evaluation, draws have no
            seed and it gets zeros.
        empty_CHW: placeholder for an image that does not count.
    """

    def __init__(
        self, images: DecodedImages, transform: Callable[[Tensor, NDArray[np.int64]], Tensor], *, empty_CHW: Tensor
    ) -> None:
        self.images, self.transform, self.empty_CHW = images, transform, empty_CHW

    def __len__(self) -> int:
        return len(self.images.labels_M)

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """The batch of several draws. The loader calls this instead of ``__getitem__`` if it exists."""
        found = [self._find(draw) for draw in draws]
        places_B = np.array([place for place, _, _ in found])
        counted_B = torch.tensor([counted for _, counted, _ in found])
        seeds_B = np.array([draw.seed or 0 for draw in draws])
        images_BCHW = self.transform(self.images.pixels_MCHW[torch.from_numpy(places_B)], seeds_B)
        if not counted_B.all():
            images_BCHW[~counted_B] = self.empty_CHW
        return Batch(
            images_BCHW,
            torch.from_numpy(self.images.labels_M[places_B]),
            torch.from_numpy(places_B),
            counted_B,
            [name for _, _, broken in found for name in broken],
        )

    def _find(self, draw: Draw) -> tuple[int, bool, list[str]]:
        """Index of the image, whether it counts, and the broken images before it."""
        broken: list[str] = []
        for index in indices_to_try(draw, len(self)):
            if index not in self.images.broken:
                return index, True, broken
            broken.append(str(self.images.broken[index]))
        return draw.place, False, broken
