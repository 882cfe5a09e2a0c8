"""One part of a run's images, as a source is asked for it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localvit.data.config import DataConfig
from localvit.data.source import DataError


@dataclass(frozen=True)
class Request:
    """Which images to open, and how.

    Attributes:
        config: the dataset.
        part: the training images or the held-out images.
        channels: 3 for RGB, 1 for grayscale.
        class_names: what the labels stand for if the source does not say.
    """

    config: DataConfig
    part: Literal["train", "val"]
    channels: int
    class_names: tuple[str, ...] | None = None

    @property
    def split(self) -> str:
        """The name that the configuration gives the part."""
        return self.config.train_split if self.part == "train" else self.config.val_split

    @property
    def root(self) -> Path:
        """The folder of the dataset; :class:`DataError` if it is not given or does not exist."""
        config = self.config
        if config.root is None:
            raise DataError(f"source {config.source} needs the folder of its files; pass it as --data.root")
        root = Path(config.root).expanduser()
        if not root.is_dir():
            raise DataError(
                f"{root} {'is not a folder' if root.exists() else 'does not exist'}; --data.root must be a folder"
            )
        return root

    @property
    def cache(self) -> Path:
        """The folder for files that can be rebuilt. Defaults to ``localvit`` in the user's cache."""
        if self.config.cache is not None:
            return Path(self.config.cache).expanduser()
        # The XDG specification says to ignore a relative path.
        xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "localvit"
