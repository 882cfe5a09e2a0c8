"""Images and labels in Parquet files, as Hugging Face writes image data sets."""

from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from localvit.data.config import DataConfig
from localvit.data.source import DataError
from localvit.data.sources.locations import cache_of, root_of
from localvit.data.sources.shards import as_data_files, find_shards
from localvit.data.sources.tables import ImageRows, load_rows, open_rows


def open_parquet(
    config: DataConfig, part: Literal["train", "val"], *, channels: int, class_names: tuple[str, ...] | None
) -> ImageRows:
    """The images of one part."""
    root, split = root_of(config), config.train_split if part == "train" else config.val_split
    called = f"{split} of {root}"
    # The library stops at a file without rows.
    files = [file for file in find_shards(root, split, "parquet") if _count_rows(file)]
    if not files:
        raise DataError(f"{called} has no images: its files have no rows")
    rows = load_rows(
        called,
        "parquet",
        data_files=as_data_files(files),
        split="train",
        cache_dir=str(cache_of(config) / "datasets"),
    )
    return open_rows(
        rows,
        called,
        image_key=config.image_key,
        label_key=config.label_key,
        channels=channels,
        class_names=class_names,
        folder=root,
    )


def _count_rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
