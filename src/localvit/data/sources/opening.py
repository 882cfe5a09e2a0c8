"""Opens the parts of a run's images, whatever their source, and checks them before anything is trained."""

from typing import Literal, Protocol

from localvit.data.config import DataConfig
from localvit.data.source import ImageSource
from localvit.data.sources.digits import open_digits
from localvit.data.sources.folder import open_folder
from localvit.data.sources.hub import open_hub
from localvit.data.sources.parquet import open_parquet
from localvit.data.sources.parts import Part, Parts, check, check_classes, first_images, hold_out, only_classes
from localvit.data.sources.torchvision_sets import open_torchvision
from localvit.data.sources.webdataset import open_webdataset


class _Opener(Protocol):
    def __call__(
        self,
        config: DataConfig,
        part: Literal["train", "val"],
        *,
        channels: int,
        class_names: tuple[str, ...] | None,
    ) -> ImageSource:
        """One part as its source has it; ``class_names`` are those that labels without names of their own stand for."""


_OPENERS: dict[str, _Opener] = {
    "folder": open_folder,
    "parquet": open_parquet,
    "webdataset": open_webdataset,
    "huggingface": open_hub,
    "torchvision": open_torchvision,
    "digits": open_digits,
}


def open_parts(config: DataConfig, *, channels: int) -> Parts:
    """The part to learn from and the part held out.

    Args:
        config: where they come from.
        channels: 3 for images in RGB, 1 for grey.

    Raises:
        DataError: where there is no image, a label is no class, or the parts have not the same classes.
    """
    if config.held_out:
        train, val = _cut(config, channels, None)
    else:
        train = _open(config, "train", channels, None)
        val = _open(config, "val", channels, train.class_names)
    return Parts(_chosen(train, config, "train_images"), _chosen(val, config, "val_images"))


def open_val(config: DataConfig, *, channels: int, class_names: tuple[str, ...] | None = None) -> ImageSource:
    """The part held out alone; unless it is cut from the part to learn from, that need not be there.

    Args:
        config: where it comes from.
        channels: 3 for images in RGB, 1 for grey.
        class_names: that the model was trained on. Labels are then places in these names, also those of a part that
            lacks some classes; without them a source of bare strings numbers the ones it has.

    Raises:
        DataError: where there is no image, a label is no class, or the classes are not ``class_names``.
    """
    val = _cut(config, channels, class_names)[1] if config.held_out else _open(config, "val", channels, class_names)
    return _chosen(val, config, "val_images")


def _chosen(source: ImageSource, config: DataConfig, limit: Literal["train_images", "val_images"]) -> ImageSource:
    if config.classes is not None:
        source = only_classes(source, config.classes)
    count: int | None = getattr(config, limit)
    return source if count is None else first_images(source, count, limit)


def _cut(config: DataConfig, channels: int, class_names: tuple[str, ...] | None) -> tuple[ImageSource, ImageSource]:
    whole = _open(config, "train", channels, class_names)
    train_M, val_M = hold_out(whole.labels_M, config.held_out, whole.class_names)
    return Part(whole, train_M), Part(whole, val_M)


def _open(
    config: DataConfig, part: Literal["train", "val"], channels: int, class_names: tuple[str, ...] | None
) -> ImageSource:
    source = _OPENERS[config.source](config, part, channels=channels, class_names=class_names)
    called = f"the part {'to learn from' if part == 'train' else 'held out'} ({source})"
    check(source, called)
    if class_names is not None:
        check_classes(source, called, class_names)
    return source
