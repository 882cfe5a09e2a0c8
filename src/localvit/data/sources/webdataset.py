"""Images and labels in tar files, as WebDataset stores them: the files of a sample share a stem."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from localvit.data.source import DataError
from localvit.data.sources.huggingface import find_shards, load_shards
from localvit.data.sources.parts import listed
from localvit.data.sources.request import Request
from localvit.data.sources.tables import ImageRows, read_labels

_IMAGES = "jpg;jpeg;png;webp"
# Extensions that the library reads as integers and as text; any other label key is a field of .json.
_NUMBERS = ("cls", "cls2", "index", "inx", "id")
_TEXTS = ("txt", "text")
_JSON = "json"


def open_webdataset(request: Request) -> ImageRows:
    """The images of one part.

    The types of the columns are given, because the library would infer them from the first samples and refuse the rest:
    shards that mix JPEG and PNG are common.
    """
    import datasets

    files = find_shards(request, "tar")
    called = f"{request.split} of {request.root}"
    endings = (request.config.image_key or _IMAGES).split(";")
    images = [*endings, *(ending.upper() for ending in endings)]
    label_key = request.config.label_key or "cls"
    label_column, label_type = _label_type(files[0], label_key)
    columns = {ending: datasets.Image(decode=False) for ending in images}
    columns |= {"__url__": datasets.Value("string"), label_column: label_type}
    rows = load_shards(request, "webdataset", files, features=datasets.Features(columns))
    labels = rows.select_columns([label_column]).with_format("arrow")[:].column(0)
    if label_column == _JSON:
        labels = pc.struct_field(labels, label_key)
    if label_key in _TEXTS:
        labels = pc.utf8_trim_whitespace(labels)  # text files end with a newline
    labels_M, names = read_labels(labels, f"{called}, {label_key},", class_names=request.class_names)
    return ImageRows(
        rows,
        called,
        columns=images,
        labels_M=labels_M,
        class_names=names,
        channels=request.channels,
        shard_column="__url__",
    )


def _label_type(shard: Path, key: str) -> tuple[str, Any]:
    """The column of the labels and its type, judged by the first sample."""
    import datasets

    if key in _NUMBERS:
        return key, datasets.Value("int64")
    if key in _TEXTS:
        return key, datasets.Value("string")
    sample = _first_sample(shard)
    if _JSON not in sample:
        raise DataError(
            f"{shard} has {listed(sorted(sample))} in its first sample and no .json with a field {key}; "
            f"--data.label_key must be one of {', '.join((*_NUMBERS, *_TEXTS))} or a field of .json"
        )
    try:
        fields = json.loads(sample[_JSON])
    except ValueError as error:
        raise DataError(f"{shard} has a .json in its first sample that cannot be read: {error}") from error
    if not isinstance(fields, dict) or key not in fields:
        present = listed(sorted(fields)) if isinstance(fields, dict) else "no fields"
        raise DataError(f"{shard} has no field {key} in the .json of its first sample; it has {present}")
    is_number = isinstance(fields[key], int) and not isinstance(fields[key], bool)
    return _JSON, {key: datasets.Value("int64" if is_number else "string")}


def _first_sample(shard: Path) -> dict[str, bytes]:
    """The contents of the files of the first sample, by extension."""
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
