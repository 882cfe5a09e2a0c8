"""Datasets that torchvision knows by name and can download."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock
from torchvision.datasets import CIFAR10, CIFAR100

from localvit.data.config import DataConfig
from localvit.data.source import DataError, ImageSource
from localvit.data.sources.arrays import ImageArrays
from localvit.data.sources.inaturalist import open_inaturalist
from localvit.data.sources.request import Request
from localvit.system.suggestions import did_you_mean

_CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
_INATURALIST = {"inaturalist_2018": "2018", "inaturalist_2019": "2019"}


def open_torchvision(request: Request) -> ImageSource:
    """One part of a named dataset."""
    config, names = request.config, (*_CIFAR, *_INATURALIST)
    if config.name not in names:
        hint = did_you_mean((config.name or "").lower(), names)
        raise DataError(f"--data.name is {config.name}; the torchvision datasets here are {', '.join(names)}.{hint}")
    if config.root is None:
        raise DataError(f"{config.name} needs the folder that it is in or is downloaded to; pass it as --data.root")
    root = Path(config.root).expanduser()
    with _opening(config, root):
        if config.name in _INATURALIST:
            return open_inaturalist(request, root, _INATURALIST[config.name])
        train = request.part == "train"
        images = _CIFAR[config.name](root, train=train, download=config.download)
        return ImageArrays(
            f"{'train' if train else 'test'} of {config.name}",
            images.data,
            np.array(images.targets, np.int64),
            tuple(images.classes),
            channels=request.channels,
        )


@contextmanager
def _opening(config: DataConfig, root: Path) -> Iterator[None]:
    """Let only one process download at a time, and turn torchvision's errors into :class:`DataError`."""
    try:
        if not config.download:
            yield
            return
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{config.name}.lock"):
            yield
    except DataError:
        raise
    except (RuntimeError, OSError) as error:
        if config.download:
            raise DataError(f"{config.name} could not be downloaded to {root}: {error}") from error
        raise DataError(
            f"{config.name} is missing or incomplete in {root} ({error}); --data.download true downloads it"
        ) from error
