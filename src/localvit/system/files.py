"""Writes files atomically: even after a crash, a file has either its old content or its new one."""

import contextlib
import glob
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when the block ends. If the block raises, ``path`` stays as it was.

    A process that is killed meanwhile leaves a temporary file beside ``path``, which the next call removes.
    """
    temporary = _temporary(path.parent, path.name)
    try:
        with _claimed(temporary):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def working_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder below ``parent`` for files that are not ready yet. It is removed when the block ends.

    If the process is killed meanwhile, the next call with the same ``parent`` and ``name`` removes it.
    """
    folder = _temporary(parent, name)
    try:
        with _claimed(folder, is_folder=True):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace the content of ``path`` by ``text`` in UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())


def readable(path: str | Path) -> str:
    """A path for people and for text files: bytes of it that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _temporary(parent: Path, name: str) -> Path:
    """This process's temporary file or folder for ``name``, after those of killed processes are removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for other in parent.glob(f".{glob.escape(name)}.*.tmp"):
        _remove_if_abandoned(other)
    return parent / f".{name}.{os.getpid()}.tmp"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


if sys.platform != "win32":

    @contextmanager
    def _claimed(path: Path, *, is_folder: bool = False) -> Iterator[None]:
        """Create and lock a file or folder, so that no other process takes it for abandoned. Dead locks are freed."""
        while True:
            if is_folder:
                path.mkdir(exist_ok=True)
            try:
                descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_WRONLY | os.O_CREAT, 0o666)
            except FileNotFoundError:  # a folder that was removed before it was opened
                continue
            try:
                with contextlib.suppress(OSError):  # a network file system may lack locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_open_as(descriptor, path):  # and was not removed before it was locked
                    yield
                    return
            finally:
                os.close(descriptor)

    def _remove_if_abandoned(path: Path) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_open_as(descriptor, path):
                    _remove(path)
            finally:
                os.close(descriptor)

    def _is_open_as(descriptor: int, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), path.stat())
        except FileNotFoundError:
            return False

else:

    @contextmanager
    def _claimed(path: Path, *, is_folder: bool = False) -> Iterator[None]:
        if is_folder:
            path.mkdir(exist_ok=True)
        yield

    def _remove_if_abandoned(path: Path) -> None:
        with contextlib.suppress(OSError):  # a file that a process has open cannot be removed
            _remove(path)
