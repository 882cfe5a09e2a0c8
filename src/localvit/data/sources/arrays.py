"""Small datasets whose images are arrays in memory.

Shape suffixes: M images, H height, W width, C channels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from localvit.data.source import DataError
from localvit.data.sources.request import Request


class ImageArrays:
    """Images in an array: an :class:`~localvit.data.source.ImageSource`.

    Args:
        called: its name in messages.
        pixels: (M, H, W) grayscale or (M, H, W, 3) RGB, uint8.
        labels_M: class of each image.
        class_names: names of the classes.
        channels: 3 for RGB, 1 for grayscale.
    """

    def __init__(
        self,
        called: str,
        pixels: NDArray[np.uint8],
        labels_M: NDArray[np.int64],
        class_names: tuple[str, ...],
        *,
        channels: int,
    ) -> None:
        self._called = called
        self._pixels = pixels
        self._mode = "RGB" if channels == 3 else "L"
        self.labels_M = labels_M
        self.class_names = class_names

    def __str__(self) -> str:
        return self._called

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index]).convert(self._mode)

    def name(self, index: int) -> str:
        return f"{self._called}, image {index}"


def open_digits(request: Request) -> ImageArrays:
    """The handwritten digits of scikit-learn as training images; a share must be held out of them.

    These are the 1,797 scans of 8 x 8 pixels in the test part of the UCI dataset "Optical Recognition of Handwritten
    Digits" (Alpaydin and Kaynak, 1998).
    """
    from sklearn.datasets import load_digits  # takes a second, and only this source needs it

    if request.part == "val" or not request.config.held_out:
        raise DataError("digits has only one part; --data.held_out 0.25 holds out a quarter of each class")
    scans: Any = load_digits()
    pixels_MHW = np.round(scans.images * (255 / 16)).astype(np.uint8)
    names = tuple("0123456789")
    return ImageArrays(
        "scikit-learn's digits", pixels_MHW, scans.target.astype(np.int64), names, channels=request.channels
    )
