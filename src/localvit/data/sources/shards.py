"""Finds the files of a part."""

import glob
from pathlib import Path

from localvit.data.images import natural_key
from localvit.data.source import DataError
from localvit.data.sources.parts import listed


def find_shards(root: Path, split: str, ending: str) -> list[Path]:
    """Files of a part, in natural order: those of the first of four patterns that fits any.

    The first alone, for train.parquet may lie beside a train_small.parquet.

    Raises:
        DataError: where none fits.
    """
    name = glob.escape(split)
    patterns = [f"{split}.{ending}", f"{split}-*.{ending}", f"{split}*.{ending}", f"{split}/*.{ending}"]
    for pattern in patterns:
        found = [file for file in root.glob(pattern.replace(split, name, 1)) if file.is_file()]
        if found:
            return sorted(found, key=lambda file: natural_key(file.name))
    there = sorted((entry.name for entry in root.iterdir()), key=natural_key)
    raise DataError(
        f"{root} has none of {', '.join(patterns)}; it has {listed(there) if there else 'nothing'}. Name the part with "
        "--data.train_split and --data.val_split"
    )


def as_data_files(files: list[Path]) -> dict[str, list[str]]:
    """What ``load_dataset`` takes for ``data_files``; it would read a "[1]" in a path as a pattern."""
    return {"train": [glob.escape(str(file.absolute())) for file in files]}
