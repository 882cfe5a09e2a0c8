"""Images in files of their own.

Shape suffix: M images.
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from localvit.data.images import decode_image
from localvit.system.files import readable


class ImageFiles:
    """Image files below a folder: an :class:`~localvit.data.source.ImageSource`.

    Args:
        folder: the folder that the paths are relative to.
        paths_M: path of each image, with "/". Arrow holds a million paths in a few buffers that loader processes
            share; Python strings would be copied page by page as their references are counted.
        labels_M: class of each image.
        class_names: names of the classes.
        channels: 3 for RGB, 1 for grayscale.
    """

    def __init__(
        self,
        folder: Path,
        paths_M: pa.Array,
        labels_M: NDArray[np.int64],
        class_names: tuple[str, ...],
        *,
        channels: int,
    ) -> None:
        self.folder = folder
        self.paths_M = paths_M
        self.labels_M = labels_M
        self.class_names = class_names
        self.channels = channels

    def __str__(self) -> str:
        return str(self.folder)

    def read(self, index: int) -> Image.Image:
        return decode_image(Path(self._path(index)), self.name(index), channels=self.channels)

    def name(self, index: int) -> str:
        """Path of the image, for people."""
        return readable(self._path(index))

    def _path(self, index: int) -> str:
        return f"{self.folder}/{os.fsdecode(self.paths_M[index].as_py())}"
