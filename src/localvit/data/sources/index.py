"""Which images are in a folder, remembered until something in it changes.

Listing a million files takes seconds on a fast disk and many minutes on a network file system, at every start and in
every process. The modification time of a folder changes whenever a file or folder in it is added, removed or renamed.
A list is therefore valid as long as no folder's time has changed, which takes one call per folder to check.
"""

import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.text import Text

from localvit.data.images import image_endings, natural_key
from localvit.data.source import DataError
from localvit.system.files import replacing

# One row per folder. Names are bytes, as in a file system, which need not be valid text.
_SCHEMA = pa.schema(
    {"folder": pa.binary(), "modified_ns": pa.int64(), "names": pa.large_list(pa.large_binary())},
    metadata={"localvit": "index 1"},
)
# File systems store times in steps of up to two seconds; a change within the step of the listing would go unnoticed.
_STEP_NS = 2_000_000_000
_QUIET_SECONDS = 2.0


def index_folder(folder: Path, cache: Path) -> pa.Table:
    """Every folder below ``folder`` and the names of its images, in natural order, parents first.

    Links are followed, and names that start with a dot are skipped.

    Args:
        folder: the folder to list.
        cache: folder to keep the list in.

    Returns:
        Rows of ``folder`` (relative, with "/", empty for ``folder`` itself), ``modified_ns`` and ``names``.

    Raises:
        DataError: if a folder cannot be listed.
    """
    path = os.path.realpath(folder)
    endings = image_endings()
    identity = b"\0".join([os.fsencode(path), *map(str.encode, sorted(endings))])
    file = cache / "indexes" / f"{hashlib.sha256(identity).hexdigest()[:32]}.parquet"
    table = _read(file)
    if table is not None and _is_valid(table, path):
        return table
    started_ns = time.time_ns()
    try:
        with _counting(folder) as count:
            folders, times_ns, names = zip(*scan(path, endings, count), strict=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error}") from error
    table = pa.table({"folder": folders, "modified_ns": times_ns, "names": names}, schema=_SCHEMA)
    if max(times_ns) < started_ns - _STEP_NS:
        _write(table, file)
    return table


def scan(
    path: str,
    endings: frozenset[str],
    count: Callable[[int], None],
    *,
    relative: str = "",
    parents: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[tuple[bytes, int, list[bytes]]]:
    """The rows of :func:`index_folder`; ``count`` is called with the number of images in each folder."""
    # The time is read before the listing, so that a change during the listing shows.
    status = Path(path).stat()
    identity = (status.st_dev, status.st_ino)
    if identity in parents:
        return  # a link to a folder above it
    names, folders = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue  # such as macOS's ._img.jpg, which is not an image
            if _is_folder(entry):
                folders.append(entry.name)
            elif entry.name[entry.name.rfind(".") :].lower() in endings:
                names.append(entry.name)
    count(len(names))
    yield os.fsencode(relative), status.st_mtime_ns, list(map(os.fsencode, sorted(names, key=natural_key)))
    for name in sorted(folders, key=natural_key):
        below = f"{relative}/{name}" if relative else name
        yield from scan(f"{path}/{name}", endings, count, relative=below, parents=parents | {identity})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link in a circle; whoever reads it as an image says so


def _read(file: Path) -> pa.Table | None:
    """The table in ``file``; None if it is missing or damaged."""
    try:
        table = pq.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None
    return table if len(table) and table.schema.metadata == _SCHEMA.metadata else None


def _write(table: pa.Table, file: Path) -> None:
    try:
        with replacing(file) as opened:
            pq.write_table(table, opened, write_page_checksum=True)
    except OSError as error:
        logging.getLogger(__name__).warning("The list of images could not be cached for the next start: %s", error)


def _is_valid(table: pa.Table, path: str) -> bool:
    folders, times_ns = table["folder"].to_pylist(), table["modified_ns"].to_pylist()
    try:
        return all(
            Path(path, os.fsdecode(folder)).stat().st_mtime_ns == modified_ns
            for folder, modified_ns in zip(folders, times_ns, strict=True)
        )
    except OSError:
        return False


@contextmanager
def _counting(folder: Path) -> Iterator[Callable[[int], None]]:
    """Count images, and show the count on the terminal if it takes longer than a moment."""
    started, images = time.monotonic(), 0
    status = Console(stderr=True).status("")

    def count(more: int) -> None:
        nonlocal images
        images += more
        seconds = time.monotonic() - started
        if seconds > _QUIET_SECONDS:
            status.start()
            status.update(Text(f"Listing {folder}: {images:,} images, {images / seconds:,.0f}/s"))

    try:
        yield count
    finally:
        status.stop()
