"""A file system of a few MiB in memory, which can be filled and made read-only. Mounting needs root, on Linux."""

import os
import subprocess
from pathlib import Path
from typing import Self

_FILLER = ".filler"
_PAGE = 4096


class SmallDisk:
    """A file system at ``path``, which it creates; as a context manager, it is gone in the end.

    Args:
        path: where to mount it.
        mebibytes: its size.

    Raises:
        OSError: if this process may not mount.
    """

    def __init__(self, path: Path, mebibytes: int) -> None:
        self.path = path
        path.mkdir(parents=True)
        _call("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        _call("umount", "--lazy", str(self.path))

    def fill(self, room: int) -> None:
        """Leave ``room`` bytes, rounded down to pages."""
        self.empty()
        status = os.statvfs(self.path)
        length = status.f_bavail * status.f_frsize - room // _PAGE * _PAGE
        with (self.path / _FILLER).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(length, 1))

    def empty(self) -> None:
        """Give the room back."""
        (self.path / _FILLER).unlink(missing_ok=True)

    def may_write(self, allowed: str) -> None:
        """Let files be changed (``rw``), or not (``ro``)."""
        _call("mount", "-o", f"remount,{allowed}", str(self.path))


def _call(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise OSError(f"{' '.join(command)}: {ended.stderr.strip()}")
