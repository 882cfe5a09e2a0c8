"""Which images lie in a folder, remembered until something in it changes.

Listing a million files takes seconds on a fast disk and many minutes on a network's, at every start and in every
process. A folder's modification time changes when a file or folder in it comes, goes or is renamed, so the list still
holds if every folder has the time it had; asking that is one call a folder.
"""

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
from rich.progress import Progress, SpinnerColumn, TextColumn

from localvit.data.images import image_endings, natural_key
from localvit.data.source import DataError
from localvit.system.files import replacing

# One row a folder; names are bytes, as a file system has them. In Arrow a million names are a few buffers, which
# the processes of a loader share; a million Python strings would be copied page by page as they are counted.
_SCHEMA = pa.schema(
    {"folder": pa.binary(), "modified_ns": pa.int64(), "names": pa.large_list(pa.large_binary())},
    metadata={"localvit": "index 1"},
)
# File systems note times in steps, of up to two seconds: a change within a step of the listing cannot be seen.
_STEP_NS = 2_000_000_000
_QUIET_SECONDS = 2.0

Row = tuple[str, int, list[str]]


def index_folder(folder: Path, cache: Path) -> pa.Table:
    """Every folder in ``folder`` and the names of the images in it, in natural order, above before below.

    Links are followed; names that start with a point are left out.

    Args:
        folder: to list.
        cache: folder where the list is kept.

    Returns:
        Rows of ``folder`` (relative, with "/", empty for ``folder`` itself), ``modified_ns`` and ``names``.

    Raises:
        DataError: where a folder cannot be listed.
    """
    path = os.path.realpath(folder)
    endings = image_endings()
    identity = b"\0".join([os.fsencode(path), *map(str.encode, sorted(endings))])
    file = cache / "indexes" / f"{hashlib.sha256(identity).hexdigest()[:32]}.parquet"
    table = _read(file)
    if table is not None and _still_holds(table, path):
        return table
    started_ns = time.time_ns()
    try:
        with _counting(folder) as count:
            table = _to_table(scan(path, endings, count))
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error}") from error
    if max(table["modified_ns"].to_pylist()) < started_ns - _STEP_NS:
        _write(table, file)
    return table


def scan(path: str, endings: frozenset[str], count: Callable[[int], None]) -> list[Row]:
    """List ``path``: see :func:`index_folder`; ``count`` is told the images of each folder."""
    return list(_walk(path, "", endings, count, frozenset()))


def _walk(
    path: str, relative: str, endings: frozenset[str], count: Callable[[int], None], above: frozenset[tuple[int, int]]
) -> Iterator[Row]:
    # The time is taken before the listing: a change during it then shows.
    status = Path(path).stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return  # a link to a folder that it lies in
    names, folders = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue  # such as macOS's ._img.jpg, which is no image
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name[entry.name.rfind(".") :].lower() in endings:
                names.append(entry.name)
    count(len(names))
    yield relative, status.st_mtime_ns, sorted(names, key=natural_key)
    for name in sorted(folders, key=natural_key):
        below = f"{relative}/{name}" if relative else name
        yield from _walk(f"{path}/{name}", below, endings, count, above | {identity})


def _to_table(rows: list[Row]) -> pa.Table:
    return pa.table(
        {
            "folder": [os.fsencode(folder) for folder, _, _ in rows],
            "modified_ns": [modified_ns for _, modified_ns, _ in rows],
            "names": [list(map(os.fsencode, names)) for _, _, names in rows],
        },
        schema=_SCHEMA,
    )


def _read(file: Path) -> pa.Table | None:
    """The table in ``file``, or none where there is none or it is damaged."""
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
        logging.getLogger(__name__).warning("The list of images is not kept for the next start: %s", error)


def _still_holds(table: pa.Table, path: str) -> bool:
    folders, times = table["folder"].to_pylist(), table["modified_ns"].to_pylist()
    try:
        return all(
            Path(path, os.fsdecode(folder)).stat().st_mtime_ns == modified_ns
            for folder, modified_ns in zip(folders, times, strict=True)
        )
    except OSError:
        return False


@contextmanager
def _counting(folder: Path) -> Iterator[Callable[[int], None]]:
    """Count images, and show it on the terminal once that takes longer than a moment."""
    started, images = time.monotonic(), 0
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False)
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("")

    def count(more: int) -> None:
        nonlocal images
        images += more
        seconds = time.monotonic() - started
        if seconds > _QUIET_SECONDS:
            progress.start()
            progress.update(task, description=f"Listing {folder}: {images:,} images, {images / seconds:,.0f}/s")

    try:
        yield count
    finally:
        if progress.live.is_started:
            progress.stop()
