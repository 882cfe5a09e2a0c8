"""Images in one folder per class: root/train/<class>/**.jpg.

The class is the first folder below the split, as in torchvision's ImageFolder, and not the last, as in timm: folders
within a class (cat/2021, dog/2021) group its images. Classes are in timm's natural order.

Shape suffixes: M images, D folders.
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from localvit.data.images import image_endings, natural_key
from localvit.data.source import DataError
from localvit.data.sources.files import ImageFiles
from localvit.data.sources.index import index_folder
from localvit.data.sources.parts import listed
from localvit.data.sources.request import Request
from localvit.system.files import readable

# Names that timm treats as synonyms.
_TRAIN = ("train", "training")
_VAL = ("val", "validation", "valid", "eval", "evaluation")


class ImageFolder(ImageFiles):
    """The images of a folder with one folder per class.

    Args:
        folder: the folder of the class folders.
        table: its contents, from :func:`~localvit.data.sources.index.index_folder`.
        channels: 3 for RGB, 1 for grayscale.

    Raises:
        DataError: if there is no class folder, or one has no images.
    """

    def __init__(self, folder: Path, table: pa.Table, channels: int) -> None:
        table = table.slice(1).combine_chunks()  # images beside the class folders have no class
        folders_D, names_D = (table[column].combine_chunks() for column in ("folder", "names"))
        classes = [os.fsdecode(path).partition("/")[0] for path in folders_D.to_pylist()]
        class_names = tuple(dict.fromkeys(classes))
        if not class_names:
            raise DataError(f"{folder} has no folders; it must have one for each class, with the images of the class")
        if unreadable := [readable(name) for name in class_names if readable(name) != name]:
            raise DataError(f"{folder} has class folders whose names are not UTF-8: {listed(unreadable)}; rename them")
        label_of = {name: label for label, name in enumerate(class_names)}
        folder_M = pc.list_parent_indices(names_D)
        labels_M = np.array([label_of[name] for name in classes], np.int64)[folder_M.to_numpy()]
        images_K = np.bincount(labels_M, minlength=len(class_names))
        if empty := [class_names[label] for label in np.flatnonzero(images_K == 0).tolist()]:
            raise DataError(
                f"{folder} has no images in {listed(empty)}; fill or remove it. Images end in "
                f"{' '.join(sorted(image_endings()))}"
            )
        large = pa.large_binary()
        folders_M = folders_D.cast(large).take(folder_M)
        paths_M = pc.binary_join_element_wise(folders_M, names_D.flatten(), pa.scalar(b"/", large))
        super().__init__(folder, paths_M, labels_M, class_names, channels=channels)


def open_folder(request: Request) -> ImageFolder:
    """The images of one part, or all images if a share is held out and the class folders are in the root."""
    folder = _find_part(request)
    return ImageFolder(folder, index_folder(folder, request.cache), request.channels)


def _find_part(request: Request) -> Path:
    root, split, config = request.root, request.split, request.config
    synonyms: tuple[str, ...] = _TRAIN if split in _TRAIN else (*_VAL, "test") if split in _VAL else ()
    candidates = list(dict.fromkeys((split, *synonyms)))
    for name in candidates:
        if (root / name).is_dir():
            return root / name
    found = sorted((entry.name for entry in root.iterdir() if entry.is_dir()), key=natural_key)
    splits = {*_TRAIN, *_VAL, config.train_split, config.val_split}
    if config.held_out and found and not splits.intersection(found):
        return root
    raise DataError(
        f"{root} has {listed(found) if found else 'no folders'}; expected {' or '.join(candidates)}, with one folder "
        f"per class in it. Name another split with --data.{request.part}_split. If the class folders are in the root, "
        "or nothing is held out yet, --data.held_out 0.2 holds out a fifth of each class"
    )
