"""The interface of every source of images."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from localvit.system.errors import LocalViTError


class DataError(LocalViTError):
    """Data that a run cannot use; the message says which data, and what to do."""


class BrokenImageError(DataError):
    """An image that cannot be read.

    Args:
        name: name of the image in its source.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["BrokenImageError"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class ImageSource(Protocol):
    """Labeled images in a fixed order, read one by one. Sources are pickled for loader processes.

    Attributes:
        class_names: names of the classes 0, 1, ...
        labels_M: class of each image, (M,) int64.
    """

    class_names: tuple[str, ...]
    labels_M: NDArray[np.int64]

    def read(self, index: int) -> Image.Image:
        """Image ``index``, decoded and upright, in RGB or grayscale; :class:`BrokenImageError` if it is broken."""

    def name(self, index: int) -> str:
        """The name of image ``index``, such as its path."""
