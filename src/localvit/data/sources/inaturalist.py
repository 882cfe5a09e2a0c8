"""The iNaturalist competitions of 2018 and 2019 (Van Horn et al., CVPR 2018), as torchvision unpacks them.

torchvision has the images of both official parts together; which belongs to which stands in train2018.json and
val2018.json (and 2019's), which the competition gives beside the images.

Shape suffix: M images.
"""

import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from torchvision.datasets import INaturalist as TorchvisionINaturalist

from localvit.data.config import CategoryLevel, DataConfig
from localvit.data.images import decode_image
from localvit.data.source import DataError, ImageSource
from localvit.data.sources.parts import Part, listed


class INaturalist:
    """All images of a year, by category and name: an :class:`~localvit.data.source.ImageSource`.

    Args:
        root: folder of the set, the images in a folder named for the year.
        version: the year.
        category: what is a class.
        download: whether to download it where it is not there.
        channels: 3 for RGB, 1 for grey.
    """

    def __init__(self, root: Path, version: str, *, category: CategoryLevel, download: bool, channels: int) -> None:
        images = TorchvisionINaturalist(root, version=version, target_type=category, download=download)
        self.folder = Path(images.root)
        self.channels = channels
        # torchvision takes them as the file system lists them, which differs from disk to disk.
        index = sorted(images.index)
        labels_M = np.array([label for label, _ in index], np.int64)
        if category == "super":
            labels_M = np.array([entry["super"] for entry in images.categories_map], np.int64)[labels_M]
            self.class_names = tuple(sorted(images.categories_index["super"]))
        else:
            self.class_names = tuple(name.replace(os.sep, "/") for name in images.all_categories)
        self.labels_M = labels_M
        categories = [name.replace(os.sep, "/") for name in images.all_categories]
        self.paths_M = pa.array([f"{categories[label]}/{name}" for label, name in index])

    def __str__(self) -> str:
        return str(self.folder)

    def read(self, index: int) -> Image.Image:
        path = self.name(index)
        return decode_image(Path(path), path, channels=self.channels)

    def name(self, index: int) -> str:
        """Path of the image."""
        return str(self.folder / self.paths_M[index].as_py())


def open_inaturalist(
    config: DataConfig, root: Path, version: str, part: Literal["train", "val"], *, channels: int
) -> ImageSource:
    """The official part where the competition's lists are there, else all images, of which a share is held out."""
    whole = INaturalist(root, version, category=config.category, download=config.download, channels=channels)
    listing = root / f"{part}{version}.json"
    if listing.is_file():
        return ListedPart(whole, listing)
    if config.held_out:
        return whole
    raise DataError(
        f"{listing} is not there, which says what images are of the official part; get it from "
        "https://github.com/visipedia/inat_comp, or --data.held_out 0.1 holds out a tenth of each class"
    )


class ListedPart(Part):
    """The images of an official list.

    Args:
        whole: all images.
        listing: JSON of the competition, with the paths of the images of a part.

    Raises:
        DataError: where images of the list are not there.
    """

    def __init__(self, whole: INaturalist, listing: Path) -> None:
        try:
            entries = json.loads(listing.read_bytes())["images"]
            # The first folder is that of the archive, which torchvision renames.
            paths = pa.array([entry["file_name"].partition("/")[2] for entry in entries], pa.string())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{listing} is not a list of images of the competition: {error!r}") from error
        missing = paths.filter(pc.invert(pc.is_in(paths, value_set=whole.paths_M)))
        if len(missing):
            raise DataError(
                f"{len(missing):,} of the {len(paths):,} images of {listing} are not in {whole.folder}: "
                f"{listed(missing.slice(0, 3).to_pylist())}"
            )
        super().__init__(whole, np.flatnonzero(pc.is_in(whole.paths_M, value_set=paths).to_numpy(zero_copy_only=False)))
        self.listing = listing

    def __str__(self) -> str:
        return str(self.listing)
