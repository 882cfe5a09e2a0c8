"""Handwritten digits that come with scikit-learn: 1,797 real scans of 8 x 8 pixels, no download.

They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).

Shape suffixes: M images, H height, W width.
"""

from typing import Literal

import numpy as np
from PIL import Image

from localvit.data.config import DataConfig
from localvit.data.source import DataError


class Digits:
    """The digits in the order of their file: an :class:`~localvit.data.source.ImageSource`.

    Args:
        channels: 3 for RGB, 1 for grey.
    """

    def __init__(self, channels: int) -> None:
        from sklearn.datasets import load_digits  # takes a second, and only this source needs it

        pixels_MHW, labels_M = load_digits(return_X_y=True)
        self.pixels_MHW = np.round(pixels_MHW.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        self.labels_M = labels_M.astype(np.int64)
        self.class_names = tuple("0123456789")
        self.mode = "RGB" if channels == 3 else "L"

    def __str__(self) -> str:
        return "scikit-learn's digits"

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels_MHW[index]).convert(self.mode)

    def name(self, index: int) -> str:
        return f"digits[{index}]"


def open_digits(
    config: DataConfig, part: Literal["train", "val"], *, channels: int, class_names: tuple[str, ...] | None
) -> Digits:
    """All digits, as the part to learn from; the part held out is cut from it."""
    if part == "val" or not config.held_out:
        raise DataError("digits has only one part; --data.held_out 0.25 holds out a quarter of each class")
    return Digits(channels)
