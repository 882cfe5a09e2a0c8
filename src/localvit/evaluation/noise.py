"""Images of noise, for comparing two forms of a model where no photograph is at hand."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from localvit.data.config import InputConfig
from localvit.evaluation.shown_images import UNLABELED

_IMAGES = 50


class NoiseImages:
    """Images whose pixels are random: an :class:`~localvit.data.source.ImageSource` without classes.

    Args:
        shown: their size and channels.
    """

    def __init__(self, shown: InputConfig) -> None:
        self._shown = shown
        self.class_names: tuple[str, ...] = (UNLABELED,)
        self.labels_M: NDArray[np.int64] = np.zeros(_IMAGES, dtype=np.int64)

    def read(self, index: int) -> Image.Image:
        """An image; the same index gives the same one."""
        height, width = self._shown.image_size
        size = (height, width) if self._shown.channels == 1 else (height, width, self._shown.channels)
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, size, dtype=np.uint8))

    def name(self, index: int) -> str:
        """The name of an image."""
        return f"noise {index}"
