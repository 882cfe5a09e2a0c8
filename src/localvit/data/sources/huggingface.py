"""Datasets read by Hugging Face ``datasets``: Parquet files, and datasets on the hub or laid out like those."""

import glob
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from localvit.data.images import natural_key
from localvit.data.source import DataError
from localvit.data.sources.parts import listed
from localvit.data.sources.request import Request
from localvit.data.sources.tables import ImageRows, read_labels


def open_parquet(request: Request) -> ImageRows:
    """The images of one part of a folder of Parquet files."""
    called = f"{request.split} of {request.root}"
    # The library fails on a file without rows.
    files = [file for file in find_shards(request, "parquet") if _count_rows(file)]
    if not files:
        raise DataError(f"{called} has no images: its files have no rows")
    return _from_rows(load_shards(request, "parquet", files), called, request, folder=request.root)


def open_hub(request: Request) -> ImageRows:
    """The images of one split of a dataset on the hub."""
    config = request.config
    if config.name is None:
        raise DataError("source huggingface needs the name of a dataset, such as --data.name uoft-cs/cifar10")
    called = f"split {request.split} of {config.name}"
    # Without a folder of our own, the library's cache is used, which may have the dataset already.
    cache = str(request.cache / "datasets") if config.cache is not None else None
    return _from_rows(load_rows(called, config.name, split=request.split, cache_dir=cache), called, request)


def find_shards(request: Request, ending: str) -> list[Path]:
    """The files of a part in natural order: all matches of the first of four patterns that matches any file.

    Only the first, because train_small.parquet may lie beside train.parquet.

    Raises:
        DataError: if none matches.
    """
    root, split = request.root, request.split
    patterns = [f"{split}.{ending}", f"{split}-*.{ending}", f"{split}*.{ending}", f"{split}/*.{ending}"]
    for pattern in patterns:
        found = [file for file in root.glob(pattern.replace(split, glob.escape(split), 1)) if file.is_file()]
        if found:
            return sorted(found, key=lambda file: natural_key(file.name))
    present = sorted((entry.name for entry in root.iterdir()), key=natural_key)
    raise DataError(
        f"{root} has none of {', '.join(patterns)}; it has {listed(present) if present else 'nothing'}. Name the split "
        "with --data.train_split and --data.val_split"
    )


def load_shards(request: Request, kind: str, files: list[Path], **options: Any) -> Any:
    """Files of one kind as a ``datasets.Dataset``."""
    # The library would read a "[1]" in a path as a pattern.
    data_files = {"train": [glob.escape(str(file.absolute())) for file in files]}
    called, cache = f"{request.split} of {request.root}", str(request.cache / "datasets")
    return load_rows(called, kind, data_files=data_files, split="train", cache_dir=cache, **options)


def load_rows(called: str, *arguments: Any, **options: Any) -> Any:
    """``datasets.load_dataset``, whose errors become :class:`DataError`."""
    import datasets  # takes a second, and most sources do not need it

    try:
        return datasets.load_dataset(*arguments, **options)
    except (datasets.exceptions.DatasetsError, ValueError, RuntimeError, OSError) as error:
        # "An error occurred while generating the dataset" hides the actual error.
        actual = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        raise DataError(f"{called} cannot be read: {actual or error}") from error


def _from_rows(rows: Any, called: str, request: Request, *, folder: Path | None = None) -> ImageRows:
    """The images and labels of a dataset with one column for each."""
    import datasets

    image = _find_column(rows.features, called, "image", request.config.image_key, datasets.Image)
    label = _find_column(rows.features, called, "label", request.config.label_key, datasets.ClassLabel)
    labels_M, class_names = read_labels(
        rows.select_columns([label]).with_format("arrow")[:].column(0),
        f"{called}, column {label},",
        class_names=getattr(rows.features[label], "names", None) or request.class_names,
    )
    return ImageRows(
        rows,
        called,
        columns=[image],
        labels_M=labels_M,
        class_names=class_names,
        channels=request.channels,
        folder=folder,
    )


def _find_column(features: Any, called: str, default: str, key: str | None, kind: type) -> str:
    """The column named ``key``; by default the one named ``default``, or else the only one of its kind."""
    fitting: list[str] = [name for name, feature in features.items() if isinstance(feature, kind)]
    if key is None and default not in features and len(fitting) == 1:
        return fitting[0]
    name: str = key or default
    if name in features:
        return name
    raise DataError(f"{called} has no column {name}; name one of {listed(list(features))} with --data.{default}_key")


def _count_rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
