"""Images in folders that are named for their class: root/train/<class>/**.jpg.

The class is the first folder below the part, as torchvision's ImageFolder has it, and not the last, which timm takes:
folders within a class (cat/2021, dog/2021) group its images and are no classes. Classes are in timm's natural order.

Shape suffixes: M images, D folders.
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from PIL import Image

from localvit.data.config import DataConfig
from localvit.data.images import decode_image, image_endings, natural_key
from localvit.data.source import DataError
from localvit.data.sources.index import index_folder
from localvit.data.sources.locations import cache_of, root_of
from localvit.data.sources.parts import listed

# Names that timm takes for one another.
_TRAIN = ("train", "training")
_VAL = ("val", "validation", "valid", "eval", "evaluation")


class ImageFolder:
    """The images of a folder with a folder for each class: an :class:`~localvit.data.source.ImageSource`.

    Args:
        folder: with the class folders.
        table: what lies in it, from :func:`~localvit.data.sources.index.index_folder`.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DataError: where there is no class folder, or one has no images.
    """

    def __init__(self, folder: Path, table: pa.Table, channels: int) -> None:
        self.folder = folder
        self.channels = channels
        # What lies beside the class folders has no class.
        table = table.slice(1).combine_chunks()
        classes = [os.fsdecode(path).partition("/")[0] for path in table["folder"].to_pylist()]
        self.class_names = tuple(dict.fromkeys(classes))
        if not self.class_names:
            raise DataError(f"{folder} has no folders; it must have one for each class, with the images of the class")
        lists = table["names"].combine_chunks()
        counts_D = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        places = {name: label for label, name in enumerate(self.class_names)}
        labels_D = np.array([places[name] for name in classes], np.int64)
        self.labels_M = np.repeat(labels_D, counts_D)
        images_K = np.bincount(self.labels_M, minlength=len(self.class_names))
        if empty := [self.class_names[label] for label in np.flatnonzero(images_K == 0).tolist()]:
            raise DataError(
                f"{folder} has no images in {listed(empty)}; fill or remove it. Images end in "
                f"{' '.join(sorted(image_endings()))}"
            )
        self._paths_D = table["folder"].combine_chunks()
        self._ends_D = np.cumsum(counts_D)
        self._names_M = lists.flatten()

    def __str__(self) -> str:
        return str(self.folder)

    def read(self, index: int) -> Image.Image:
        path = self.name(index)
        return decode_image(Path(path), path, channels=self.channels)

    def name(self, index: int) -> str:
        """Path of the image."""
        below = self._paths_D[int(np.searchsorted(self._ends_D, index, side="right"))].as_py()
        return f"{self.folder}/{os.fsdecode(below)}/{os.fsdecode(self._names_M[index].as_py())}"


def open_folder(
    config: DataConfig, part: Literal["train", "val"], *, channels: int, class_names: tuple[str, ...] | None
) -> ImageFolder:
    """The images of one part, or all images where the root itself holds the class folders and a share is held out."""
    folder = _find_part(config, root_of(config), part)
    return ImageFolder(folder, index_folder(folder, cache_of(config)), channels)


def _find_part(config: DataConfig, root: Path, part: Literal["train", "val"]) -> Path:
    split = config.train_split if part == "train" else config.val_split
    candidates = _names_of(split)
    for name in candidates:
        if (root / name).is_dir():
            return root / name
    found = sorted((entry.name for entry in root.iterdir() if entry.is_dir()), key=natural_key)
    parts = {*_TRAIN, *_VAL, config.train_split, config.val_split}
    if config.held_out and found and not parts.intersection(found):
        return root
    raise DataError(
        f"{root} has {listed(found) if found else 'no folders'}; expected was {' or '.join(candidates)}, with a folder "
        f"for each class in it. Name another with --data.{part}_split; or, where the classes lie in the root itself or "
        "no part is held out, --data.held_out 0.2 holds out a fifth of each class"
    )


def _names_of(split: str) -> tuple[str, ...]:
    """Names that the part may have, the one asked for first."""
    names = _TRAIN if split in _TRAIN else (*_VAL, "test") if split in _VAL else ()
    return (split, *(name for name in names if name != split))
