"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), as torchvision reads them: the official parts of 50,000 and 10,000.

Shape suffixes: M images, H height, W width, C colour.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}


class Cifar:
    """One part of a CIFAR: an :class:`~localvit.data.source.ImageSource`.

    Args:
        name: cifar10 or cifar100.
        root: folder of the set.
        train: whether it is the part to learn from.
        download: whether to download it where it is not there.
        channels: 3 for RGB, 1 for grey.
    """

    def __init__(self, name: str, root: Path, *, train: bool, download: bool, channels: int) -> None:
        images = CIFAR[name](root, train=train, download=download)
        self._called = f"{'train' if train else 'test'} of {name}"
        self._mode = "RGB" if channels == 3 else "L"
        self.pixels_MHWC = images.data
        self.labels_M = np.array(images.targets, np.int64)
        self.class_names: tuple[str, ...] = tuple(images.classes)

    def __str__(self) -> str:
        return self._called

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels_MHWC[index]).convert(self._mode)

    def name(self, index: int) -> str:
        return f"{self._called}, image {index}"
