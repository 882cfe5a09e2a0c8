"""Writes files atomically: even after a crash, a file has either its old content or its new one."""

import contextlib
import glob
import os
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
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        _remove_if_abandoned(other)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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


def write_text(path: Path, text: str) -> None:
    """Replace the content of ``path`` by ``text`` in UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())


if sys.platform != "win32":

    @contextmanager
    def _claimed(path: Path) -> Iterator[None]:
        """Create a file and lock it, so that no other process takes it for abandoned. The system frees dead locks."""
        while True:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                with contextlib.suppress(OSError):  # a network file system may lack locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_open_as(descriptor, path):  # and was not removed before it was locked
                    yield
                    return
            finally:
                os.close(descriptor)

    def _remove_if_abandoned(path: Path) -> None:
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_open_as(file.fileno(), path):
                path.unlink()

    def _is_open_as(descriptor: int, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), path.stat())
        except FileNotFoundError:
            return False

else:

    def _claimed(path: Path) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _remove_if_abandoned(path: Path) -> None:
        with contextlib.suppress(OSError):  # a file that a process has open cannot be removed
            path.unlink()
