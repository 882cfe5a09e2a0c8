"""Opens the images of a run from any source, and checks them before anything is trained."""

from collections.abc import Callable

from localvit.data.config import DataConfig
from localvit.data.source import ImageSource
from localvit.data.sources.arrays import open_digits
from localvit.data.sources.folder import open_folder
from localvit.data.sources.huggingface import open_hub, open_parquet
from localvit.data.sources.parts import Part, Parts, check, check_classes, first_images, hold_out, only_classes
from localvit.data.sources.request import Request
from localvit.data.sources.torchvision_sets import open_torchvision
from localvit.data.sources.webdataset import open_webdataset

_OPENERS: dict[str, Callable[[Request], ImageSource]] = {
    "folder": open_folder,
    "parquet": open_parquet,
    "webdataset": open_webdataset,
    "huggingface": open_hub,
    "torchvision": open_torchvision,
    "digits": open_digits,
}


def open_parts(config: DataConfig, *, channels: int) -> Parts:
    """The training, validation and test images.

    Args:
        config: the dataset.
        channels: 3 for RGB, 1 for grayscale.

    Raises:
        DataError: if there are no images, a label is not a class, or the parts have different classes.
    """
    if config.held_out:
        train, held = _split(config, channels, None)
    else:
        train = _open(Request(config, "train", channels))
        held = _open(Request(config, "val", channels, train.class_names))
    train, val, test = _only_classes(train, config), _held_out(held, config), None
    if config.validation:
        train_M, val_M = hold_out(train.labels_M, config.validation, train.class_names, setting="validation")
        train, val, test = Part(train, train_M), Part(train, val_M), val
    return Parts(first_images(train, config.train_images, "train_images"), val, test)


def open_val(config: DataConfig, *, channels: int, class_names: tuple[str, ...] | None = None) -> ImageSource:
    """The held-out images alone. The training images need not exist, unless the held-out ones are split from them.

    Args:
        config: the dataset.
        channels: 3 for RGB, 1 for grayscale.
        class_names: classes that the model was trained on. Labels then index these names, even if some classes are
            missing here; without them, a source of string labels numbers only the ones it has.

    Raises:
        DataError: if there are no images, a label is not a class, or the classes are not ``class_names``.
    """
    if config.held_out:
        val = _split(config, channels, class_names)[1]
    else:
        val = _open(Request(config, "val", channels, class_names))
    return _held_out(val, config)


def _held_out(source: ImageSource, config: DataConfig) -> ImageSource:
    return first_images(_only_classes(source, config), config.val_images, "val_images")


def _only_classes(source: ImageSource, config: DataConfig) -> ImageSource:
    return source if config.classes is None else only_classes(source, config.classes)


def _split(config: DataConfig, channels: int, class_names: tuple[str, ...] | None) -> tuple[ImageSource, ImageSource]:
    whole = _open(Request(config, "train", channels, class_names))
    train_M, val_M = hold_out(whole.labels_M, config.held_out, whole.class_names)
    return Part(whole, train_M), Part(whole, val_M)


def _open(request: Request) -> ImageSource:
    source = _OPENERS[request.config.source](request)
    called = f"the {'training' if request.part == 'train' else 'held-out'} part ({source})"
    check(source, called)
    if request.class_names is not None:
        check_classes(source, called, request.class_names)
    return source
