"""What every place that images come from looks like."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from localvit.system.errors import LocalViTError


class DataError(LocalViTError):
    """Data that a run cannot use; the message says which and what to do."""


class BrokenImageError(DataError):
    """An image that cannot be read.

    Args:
        name: of the image, as its source calls it.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["BrokenImageError"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class ImageSource(Protocol):
    """Labelled images in an order that never changes, read one by one; picklable, for the processes of a loader.

    Attributes:
        class_names: of the classes 0, 1, ...
        labels_M: class of each image, (M,) int64.
    """

    class_names: tuple[str, ...]
    labels_M: NDArray[np.int64]

    def read(self, index: int) -> Image.Image:
        """Image ``index``, decoded and upright, in RGB or grey; :class:`BrokenImageError` where it cannot be."""

    def name(self, index: int) -> str:
        """What image ``index`` is called, such as its path."""
