"""The iNaturalist competitions of 2018 and 2019 (Van Horn et al., CVPR 2018), as torchvision unpacks them.

torchvision has the images of both official parts together. The competition's train2018.json and val2018.json (and
2019's), which are separate downloads, say which image is in which part.
"""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torchvision.datasets import INaturalist

from localvit.data.source import DataError, ImageSource
from localvit.data.sources.files import ImageFiles
from localvit.data.sources.parts import Part, listed
from localvit.data.sources.request import Request


def open_inaturalist(request: Request, root: Path, version: str) -> ImageSource:
    """The official part if the competition's list is in ``root``; otherwise all images, if a share is held out."""
    whole = _open_all(request, root, version)
    listing = root / f"{request.part}{version}.json"
    if listing.is_file():
        return _listed_part(whole, listing)
    if request.config.held_out:
        return whole
    raise DataError(
        f"{listing} does not exist, which lists the images of the official part; get it from "
        "https://github.com/visipedia/inat_comp, or hold out a tenth of each class with --data.held_out 0.1"
    )


def _open_all(request: Request, root: Path, version: str) -> ImageFiles:
    """All images of a year, by category and name."""
    category = request.config.category
    images = INaturalist(root, version=version, target_type=category, download=request.config.download)
    # torchvision lists them as the file system does, which differs between disks.
    index = sorted(images.index)
    labels_M = np.array([label for label, _ in index], np.int64)
    names = [name.replace(os.sep, "/") for name in images.all_categories]
    paths_M = pa.array([f"{names[label]}/{file}" for label, file in index])
    if category == "super":
        labels_M = np.array([entry["super"] for entry in images.categories_map], np.int64)[labels_M]
        names = sorted(images.categories_index["super"])
    return ImageFiles(Path(images.root), paths_M, labels_M, tuple(names), channels=request.channels)


def _listed_part(whole: ImageFiles, listing: Path) -> Part:
    """The images in an official list; :class:`DataError` if some are missing."""
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
    kept_M = pc.is_in(whole.paths_M, value_set=paths).to_numpy(zero_copy_only=False)
    return Part(whole, np.flatnonzero(kept_M), called=str(listing))
