"""Images and labels in tar files, as WebDataset has them: a sample's files share their name up to the first point."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from localvit.data.config import DataConfig
from localvit.data.source import DataError
from localvit.data.sources.locations import cache_of, root_of
from localvit.data.sources.parts import listed
from localvit.data.sources.shards import as_data_files, find_shards
from localvit.data.sources.tables import ImageRows, load_rows, read_labels

_IMAGES = "jpg;jpeg;png;webp"
# Endings that the library reads as numbers and as text; another label key is a field of .json.
_NUMBERS = ("cls", "cls2", "index", "inx", "id")
_TEXTS = ("txt", "text")
_JSON = "json"


def open_webdataset(
    config: DataConfig, part: Literal["train", "val"], *, channels: int, class_names: tuple[str, ...] | None
) -> ImageRows:
    """The images of one part.

    The types of columns are given, for the library would take those of the first samples and refuse the rest: shards
    in which some images are JPEG and some PNG are common.
    """
    import datasets

    root, split = root_of(config), config.train_split if part == "train" else config.val_split
    files = find_shards(root, split, "tar")
    called = f"{split} of {root}"
    endings = (config.image_key or _IMAGES).split(";")
    images = [*endings, *(ending.upper() for ending in endings)]
    label_key = config.label_key or "cls"
    label_column, label_type = _label_type(files[0], label_key)
    rows = load_rows(
        called,
        "webdataset",
        data_files=as_data_files(files),
        split="train",
        cache_dir=str(cache_of(config) / "datasets"),
        features=datasets.Features(
            {
                "__url__": datasets.Value("string"),
                **{ending: datasets.Image(decode=False) for ending in images},
                label_column: label_type,
            }
        ),
    )
    labels = rows.select_columns([label_column]).with_format("arrow")[:].column(0)
    if label_column == _JSON:
        labels = pc.struct_field(labels, label_key)
    if label_key in _TEXTS:
        labels = pc.utf8_trim_whitespace(labels)  # a file of text ends in a line break
    labels_M, names = read_labels(labels, f"{called}, {label_key},", own_names=None, class_names=class_names)
    return ImageRows(
        rows,
        called,
        columns=images,
        labels_M=labels_M,
        class_names=names,
        channels=channels,
        shard_column="__url__",
    )


def _label_type(shard: Path, key: str) -> tuple[str, Any]:
    """The column of the labels and its type, by the first sample."""
    import datasets

    if key in _NUMBERS:
        return key, datasets.Value("int64")
    if key in _TEXTS:
        return key, datasets.Value("string")
    sample = _first_sample(shard)
    if _JSON not in sample:
        raise DataError(
            f"{shard} has {listed(sorted(sample))} in its first sample and no .json with a field {key}; "
            f"--data.label_key names one of {', '.join((*_NUMBERS, *_TEXTS))} or a field of .json"
        )
    try:
        fields = json.loads(sample[_JSON])
    except ValueError as error:
        raise DataError(f"{shard} has a .json in its first sample that cannot be read: {error}") from error
    if not isinstance(fields, dict) or key not in fields:
        there = listed(sorted(fields)) if isinstance(fields, dict) else "no fields"
        raise DataError(f"{shard} has no field {key} in the .json of its first sample; it has {there}")
    is_number = isinstance(fields[key], int) and not isinstance(fields[key], bool)
    return _JSON, {key: datasets.Value("int64" if is_number else "string")}


def _first_sample(shard: Path) -> dict[str, bytes]:
    """Contents of the files of the first sample, by ending."""
    sample: dict[str, bytes] = {}
    first = None
    try:
        with tarfile.open(shard) as archive:
            for member in archive:
                parts = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", member.name)
                file = archive.extractfile(member)
                if parts is None or file is None:
                    continue
                if first not in (None, parts[1]):
                    break
                first = parts[1]
                sample[parts[2]] = file.read()
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shard} cannot be read: {error}") from error
    return sample
