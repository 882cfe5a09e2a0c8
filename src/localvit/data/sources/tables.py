"""Images in the rows of a Hugging Face dataset, which Arrow memory-maps: any row at once, in any order.

Shards are made random-access for this reason: an epoch is then an exact shuffle and can be resumed exactly, and an
evaluation sees each image once.

Shape suffix: M images.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from localvit.data.images import decode_image
from localvit.data.source import BrokenImageError, DataError
from localvit.data.sources.parts import listed

_MOST_CLASSES = 1_000_000


class ImageRows:
    """Encoded images in columns of a dataset: an :class:`~localvit.data.source.ImageSource`.

    Args:
        rows: a ``datasets.Dataset``.
        called: its name in messages.
        columns: columns that may hold the image of a row; the first that is not empty is used.
        labels_M: class of each row.
        class_names: names of the classes.
        channels: 3 for RGB, 1 for grayscale.
        shard_column: the column with the shard of a row.
        folder: folder that paths of images are relative to.

    Raises:
        DataError: if a column can hold neither encoded images nor paths.
    """

    def __init__(
        self,
        rows: Any,
        called: str,
        *,
        columns: Sequence[str],
        labels_M: NDArray[np.int64],
        class_names: tuple[str, ...],
        channels: int,
        shard_column: str | None = None,
        folder: Path | None = None,
    ) -> None:
        for column in columns:
            _require_images(rows.features.arrow_schema.field(column).type, column, called)
        kept = [*columns, *([shard_column] if shard_column else [])]
        # As Arrow, because the library would decode images itself for Python.
        self._rows = rows.select_columns(kept).with_format("arrow")
        self._called = called
        self._columns = tuple(columns)
        self._shard_column = shard_column
        self._folder = folder or Path()
        self._channels = channels
        self.labels_M = labels_M
        self.class_names = class_names

    def __str__(self) -> str:
        return self._called

    def read(self, index: int) -> Image.Image:
        encoded, path, name = self._cell(index)
        if encoded is None and path is None:
            raise BrokenImageError(name, f"has nothing in {' or '.join(self._columns)}")
        file = io.BytesIO(encoded) if encoded is not None else self._folder / str(path)
        return decode_image(file, name, channels=self._channels)

    def name(self, index: int) -> str:
        """The row of the image, with its path or shard if known."""
        return self._cell(index)[2]

    def _cell(self, index: int) -> tuple[bytes | None, str | None, str]:
        row = self._rows[index]
        encoded, path = None, None
        for column in self._columns:
            cell = row.column(column)[0].as_py()
            if isinstance(cell, dict):
                encoded, path = cell.get("bytes"), cell.get("path")
            elif isinstance(cell, bytes):
                encoded = cell
            else:
                path = cell
            if encoded is not None or path is not None:
                break
        shard = row.column(self._shard_column)[0].as_py() if self._shard_column else None
        origin = ", ".join(filter(None, [shard, path]))
        return encoded, path, f"{self._called}, row {index}" + (f" ({origin})" if origin else "")


def read_labels(
    column: pa.ChunkedArray, called: str, *, class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The labels in a column of integers or strings, and the names of their classes.

    Args:
        column: the labels.
        called: the name of the column in messages.
        class_names: names of the classes. Defaults to the numbers up to the largest, or to the sorted strings.

    Raises:
        DataError: if labels are missing, of another type, or strings that are not in ``class_names``.
    """
    if column.null_count:
        first = int(np.flatnonzero(pc.is_null(column).to_numpy())[0])
        raise DataError(f"{called} has no label in {column.null_count:,} of {len(column):,} rows, first in row {first}")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        names = tuple(class_names or sorted(pc.unique(column).to_pylist()))
        places = pc.index_in(column, value_set=pa.array(names, column.type))
        if places.null_count:
            unknown = sorted(pc.unique(column.filter(pc.is_null(places))).to_pylist())
            raise DataError(
                f"{called} has labels that are not among the {len(names)} training classes: {listed(unknown)} "
                f"({places.null_count:,} images)"
            )
        return places.to_numpy().astype(np.int64), names
    if not pa.types.is_integer(column.type):
        raise DataError(f"{called} is of type {column.type}; labels must be integers or strings")
    labels_M = column.cast(pa.int64()).to_numpy()
    if class_names is not None:
        return labels_M, tuple(class_names)
    classes = int(labels_M.max(initial=-1)) + 1
    if classes > _MOST_CLASSES:
        raise DataError(f"{called} has label {classes - 1}; labels must number the classes from 0")
    return labels_M, tuple(map(str, range(classes)))


def _require_images(kind: pa.DataType, column: str, called: str) -> None:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    if any(test(kind) for test in tests):
        return
    if pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}:
        return
    raise DataError(f"{called}, column {column}, is of type {kind}; it must hold encoded images (bytes) or their paths")
