"""Sets that torchvision knows by name and can download."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock

from localvit.data.config import DataConfig
from localvit.data.source import DataError, ImageSource
from localvit.data.sources.cifar import CIFAR, Cifar
from localvit.data.sources.inaturalist import open_inaturalist

_INATURALIST = {"inaturalist_2018": "2018", "inaturalist_2019": "2019"}


def open_torchvision(
    config: DataConfig, part: Literal["train", "val"], *, channels: int, class_names: tuple[str, ...] | None
) -> ImageSource:
    """One part of a named set."""
    names = (*CIFAR, *_INATURALIST)
    if config.name not in names:
        near = difflib.get_close_matches((config.name or "").lower(), names, n=1)
        suggestion = f"; did you mean {near[0]}?" if near else "."
        raise DataError(f"--data.name is {config.name}{suggestion} Sets of torchvision here: {', '.join(names)}")
    if config.root is None:
        raise DataError(f"{config.name} needs the folder where it lies or is downloaded to; name it with --data.root")
    root = Path(config.root).expanduser()
    with _opening(config, root):
        if config.name in CIFAR:
            return Cifar(config.name, root, train=part == "train", download=config.download, channels=channels)
        return open_inaturalist(config, root, _INATURALIST[config.name], part, channels=channels)


@contextmanager
def _opening(config: DataConfig, root: Path) -> Iterator[None]:
    """One process at a time, so that a single one downloads, and torchvision's errors as :class:`DataError`."""
    try:
        if not config.download:
            yield
            return
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{config.name}.lock"):
            yield
    except (RuntimeError, OSError) as error:
        if isinstance(error, DataError):
            raise
        if config.download:
            raise DataError(f"{config.name} could not be downloaded to {root}: {error}") from error
        raise DataError(
            f"{config.name} is not in {root}, or not whole ({error}); --data.download true downloads it"
        ) from error
