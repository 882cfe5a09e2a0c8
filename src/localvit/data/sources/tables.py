"""Images in the rows of a Hugging Face data set, which Arrow maps from disk: any row at once, in any order.

That is why shards are made random-access first: an epoch is then an exact shuffle, goes on in its middle exactly, and
an evaluation sees each image once.

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
    """Encoded images in columns of a data set: an :class:`~localvit.data.source.ImageSource`.

    Args:
        rows: a ``datasets.Dataset``.
        called: what messages call it.
        columns: that may hold the image of a row; the first that does is taken.
        labels_M: class of each row.
        class_names: of the classes.
        channels: 3 for RGB, 1 for grey.
        shard_column: the column that names the shard of a row.
        folder: where paths of images start.
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
        # As Arrow and not as Python, where the library would decode images itself.
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
        """Row of the image, with its path or shard where the row tells."""
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
    column: pa.ChunkedArray, called: str, *, own_names: Sequence[str] | None, class_names: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of a column of whole numbers or strings, and the names of their classes.

    Args:
        column: the labels.
        called: what messages call it.
        own_names: that the data set gives its numbers.
        class_names: that labels stand for where it gives none; by default the numbers up to the largest, or the sorted
            strings.

    Raises:
        DataError: for labels that are missing, of another kind, or strings that are not in ``class_names``.
    """
    if column.null_count:
        first = int(np.flatnonzero(pc.is_null(column).to_numpy())[0])
        raise DataError(f"{called} has no label in {column.null_count:,} of {len(column):,} rows, first in row {first}")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        names = class_names or tuple(sorted(pc.unique(column).to_pylist()))
        places = pc.index_in(column, value_set=pa.array(names, column.type))
        if places.null_count:
            unknown = sorted(pc.unique(column.filter(pc.is_null(places))).to_pylist())
            raise DataError(
                f"{called} has labels that are not among the {len(names)} classes learned: {listed(unknown)} "
                f"({places.null_count:,} images)"
            )
        return places.to_numpy().astype(np.int64), names
    if not pa.types.is_integer(column.type):
        raise DataError(f"{called} is of type {column.type}; labels are whole numbers or strings")
    labels_M = column.cast(pa.int64()).to_numpy()
    if own_names is not None or class_names is not None:
        return labels_M, tuple(own_names or class_names or ())
    classes = int(labels_M.max(initial=-1)) + 1
    if classes > _MOST_CLASSES:
        raise DataError(f"{called} has label {classes - 1}; labels number the classes from 0 on")
    return labels_M, tuple(map(str, range(classes)))


def open_rows(
    rows: Any,
    called: str,
    *,
    image_key: str | None,
    label_key: str | None,
    channels: int,
    class_names: tuple[str, ...] | None,
    folder: Path | None = None,
) -> ImageRows:
    """The images and labels of a data set with a column for each.

    Args:
        rows: a ``datasets.Dataset``.
        called: what messages call it.
        image_key: column of the images; by default "image", or the only one that the data set says holds images.
        label_key: column of the labels; by default "label", or the only one that it says holds classes.
        channels: 3 for RGB, 1 for grey.
        class_names: see :func:`read_labels`.
        folder: where paths of images start.

    Raises:
        DataError: where a column is missing or of the wrong kind.
    """
    import datasets

    images = _find_column(rows.features, called, "image", image_key, datasets.Image)
    label = _find_column(rows.features, called, "label", label_key, datasets.ClassLabel)
    feature = rows.features[label]
    labels_M, names = read_labels(
        rows.select_columns([label]).with_format("arrow")[:].column(0),
        f"{called}, column {label},",
        own_names=feature.names if isinstance(feature, datasets.ClassLabel) else None,
        class_names=class_names,
    )
    return ImageRows(
        rows, called, columns=[images], labels_M=labels_M, class_names=names, channels=channels, folder=folder
    )


def load_rows(called: str, *arguments: Any, **options: Any) -> Any:
    """``datasets.load_dataset``, whose errors become :class:`DataError`."""
    import datasets  # takes a second, and most sources do without

    try:
        return datasets.load_dataset(*arguments, **options)
    except (datasets.exceptions.DatasetsError, ValueError, RuntimeError, OSError) as error:
        # "An error occurred while generating the dataset" stands in front of what happened.
        happened = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        raise DataError(f"{called} cannot be read: {happened or error}") from error


def _find_column(features: Any, called: str, default: str, key: str | None, kind: type) -> str:
    fitting: list[str] = [name for name, feature in features.items() if isinstance(feature, kind)]
    if key is None and default not in features and len(fitting) == 1:
        return fitting[0]
    name: str = key or default
    if name in features:
        return name
    raise DataError(f"{called} has no column {name}; name one of {listed(list(features))} with --data.{default}_key")


def _require_images(kind: pa.DataType, column: str, called: str) -> None:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    if any(test(kind) for test in tests):
        return
    if pa.types.is_struct(kind) and {"bytes", "path"} & {kind.field(place).name for place in range(kind.num_fields)}:
        return
    raise DataError(f"{called}, column {column}, is of type {kind}; encoded images (bytes) or their paths are read")
