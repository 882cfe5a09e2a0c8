"""Training, validation and test images, and what must be true of them before anything is trained.

Shape suffixes: M images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from localvit.data.source import DataError, ImageSource
from localvit.system.suggestions import did_you_mean

_MOST_NAMED = 5


@dataclass(frozen=True)
class Parts:
    """The images of a run, with the same classes in the same order.

    Attributes:
        train: the training images.
        val: the validation images: split from the training images if ``validation`` is set, or else held out.
        test: the held-out images if ``validation`` is set, or else None.
    """

    train: ImageSource
    val: ImageSource
    test: ImageSource | None = None


class Part:
    """Some images of a source: an :class:`~localvit.data.source.ImageSource`.

    Args:
        source: the images to select from.
        indices_M: indices of the selected images.
        class_names: new names of the classes. Defaults to the source's; requires ``class_of_label_K``.
        class_of_label_K: the new class of each class of the source.
        called: its name in messages. Defaults to the source's.
    """

    def __init__(
        self,
        source: ImageSource,
        indices_M: NDArray[np.int64],
        *,
        class_names: tuple[str, ...] | None = None,
        class_of_label_K: NDArray[np.int64] | None = None,
        called: str | None = None,
    ) -> None:
        self.source = source
        self.indices_M = indices_M
        self.class_names = source.class_names if class_names is None else class_names
        labels_M = source.labels_M[indices_M]
        self.labels_M = labels_M if class_of_label_K is None else class_of_label_K[labels_M]
        self.called = called or str(source)

    def __str__(self) -> str:
        return self.called

    def read(self, index: int) -> Image.Image:
        return self.source.read(int(self.indices_M[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices_M[index]))


def hold_out(
    labels_M: NDArray[np.int64], share: float, class_names: Sequence[str], *, setting: str = "held_out"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the training images and of the held-out images: the last of every class.

    Photos of one series lie next to each other, so a random choice would hold out near-duplicates of training images.

    Args:
        labels_M: class of each image.
        share: share of each class to hold out, rounded to at least one image and at most all but one.
        class_names: names of the classes.
        setting: name of the share in errors.

    Raises:
        DataError: if a class has only one image.
    """
    counts_K = np.bincount(labels_M, minlength=len(class_names))
    if single := [class_names[label] for label in np.flatnonzero(counts_K == 1).tolist()]:
        raise DataError(
            f"{setting} is {share}, but {listed(single)} has only one image; a class needs one to train on and one to "
            "hold out"
        )
    held_K = np.clip(np.rint(counts_K * share).astype(np.int64), 1, np.maximum(counts_K - 1, 1))
    by_class_M = np.argsort(labels_M, kind="stable")
    starts_K = np.cumsum(counts_K) - counts_K
    rank_M = np.empty(len(labels_M), np.int64)
    rank_M[by_class_M] = np.arange(len(labels_M)) - np.repeat(starts_K, counts_K)
    held_M = rank_M >= (counts_K - held_K)[labels_M]
    return np.flatnonzero(~held_M), np.flatnonzero(held_M)


def first_images(source: ImageSource, count: int | None, setting: str) -> ImageSource:
    """The first ``count`` images, or all if it is None; :class:`DataError` naming ``setting`` if there are fewer."""
    if count is None:
        return source
    available = len(source.labels_M)
    if count > available:
        raise DataError(f"{setting} is {count:,}, but {source} has {available:,} such images; make it smaller")
    return Part(source, np.arange(count))


def only_classes(source: ImageSource, classes: Sequence[str]) -> Part:
    """The images of ``classes``, which are numbered anew in the order of the source.

    Raises:
        DataError: if the source does not have one of them.
    """
    if missing := [name for name in classes if name not in source.class_names]:
        raise DataError(
            f"classes has {listed(missing)}, but {source} has {listed(source.class_names)}."
            f"{did_you_mean(missing[0], source.class_names)}"
        )
    kept = [label for label, name in enumerate(source.class_names) if name in set(classes)]
    class_of_label_K = np.full(len(source.class_names), -1)
    class_of_label_K[kept] = np.arange(len(kept))
    return Part(
        source,
        np.flatnonzero(np.isin(source.labels_M, kept)),
        class_names=tuple(source.class_names[label] for label in kept),
        class_of_label_K=class_of_label_K,
    )


def check(source: ImageSource, called: str) -> None:
    """Raise :class:`DataError` if there are no images, or if a label is not a class."""
    labels_M, classes = source.labels_M, len(source.class_names)
    if not len(labels_M):
        raise DataError(f"{called} has no images")
    wrong_M = labels_M[(labels_M < 0) | (labels_M >= classes)]
    if len(wrong_M):
        labels, counts = np.unique(wrong_M, return_counts=True)
        found = [f"label {label} ({count:,} images)" for label, count in zip(labels, counts, strict=True)]
        hint = "; -1 often marks a part without labels" if -1 in labels else ""
        raise DataError(f"{called} has {listed(found)}; the {classes} classes are 0 to {classes - 1}{hint}")


def check_classes(source: ImageSource, called: str, expected: Sequence[str]) -> None:
    """Raise :class:`DataError` unless the classes of ``source`` are the ``expected`` ones, in that order."""
    if tuple(source.class_names) == tuple(expected):
        return
    missing = [name for name in expected if name not in set(source.class_names)]
    extra = [name for name in source.class_names if name not in set(expected)]
    differences = [f"lacks {listed(missing)}"] * bool(missing) + [f"also has {listed(extra)}"] * bool(extra)
    raise DataError(
        f"{called} must have the {len(expected)} training classes; it "
        f"{' and '.join(differences) or 'has them in another order'}"
    )


def listed(names: Sequence[str]) -> str:
    """The names, or the first few of many."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
