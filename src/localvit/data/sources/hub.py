"""Data sets of the Hugging Face hub, or a folder laid out like one."""

from typing import Literal

from localvit.data.config import DataConfig
from localvit.data.source import DataError
from localvit.data.sources.locations import cache_of
from localvit.data.sources.tables import ImageRows, load_rows, open_rows


def open_hub(
    config: DataConfig, part: Literal["train", "val"], *, channels: int, class_names: tuple[str, ...] | None
) -> ImageRows:
    """The images of one split."""
    if config.name is None:
        raise DataError("source huggingface needs the name of a data set, such as --data.name uoft-cs/cifar10")
    split = config.train_split if part == "train" else config.val_split
    called = f"split {split} of {config.name}"
    # Without a folder of its own the library's is taken, where the set may lie already.
    cache = str(cache_of(config) / "datasets") if config.cache is not None else None
    rows = load_rows(called, config.name, split=split, cache_dir=cache)
    return open_rows(
        rows,
        called,
        image_key=config.image_key,
        label_key=config.label_key,
        channels=channels,
        class_names=class_names,
    )
