"""Folders that a run reads from and keeps its indexes in."""

import os
from pathlib import Path

from localvit.data.config import DataConfig
from localvit.data.source import DataError


def root_of(config: DataConfig) -> Path:
    """The folder of the images; :class:`DataError` where none is named or there is none."""
    if config.root is None:
        raise DataError(f"source {config.source} needs the folder of its files; name it with --data.root")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is {'no folder' if root.exists() else 'not there'}; --data.root names a folder")
    return root


def cache_of(config: DataConfig) -> Path:
    """The folder for what can be made anew: the one of ``config``, or ``localvit`` in the user's cache."""
    if config.cache is not None:
        return Path(config.cache).expanduser()
    # The XDG rules say that a relative path is to be ignored.
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "localvit"
